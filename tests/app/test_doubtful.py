"""Doubtful masks are named after `predict`, and told by the exports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backdrop.app.commands import MOST_NAMED, name_doubtful, stretches
from backdrop.app.exports.coco import coco
from backdrop.app.exports.common import doubts_of, recorded
from backdrop.app.records import Record, Records, encoded
from backdrop.app.sources import Source
from backdrop.video.encode import encode_video
from tests.app.exported import FRAMES, write_material, write_results
from tests.backdrop_command import call
from tests.handmade_run import scene
from tests.small_pipeline import write_model

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (60, 40)


def box_mask(left: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], bool)
    mask[10:30, left : left + width] = True
    return mask


def by_hand(name: str, masks: list[np.ndarray], sure: float = 0.9, every: int = 1) -> tuple[Source, Records]:
    frames = [
        Record(every * t, 0.0, mask.shape[::-1], (0, 0, 1, 1), 0.99, sure, encoded(mask))  # type: ignore[arg-type]
        for t, mask in enumerate(masks)
    ]
    return Source(Path(name), name, name.endswith(".mp4")), Records({"every": every}, frames, True)


def test_doubtful_frames_are_counted_and_named_with_the_reason() -> None:
    good, gone, away = box_mask(5, 20), box_mask(0, 0), box_mask(38, 20)
    found = [by_hand("a.mp4", [good, gone, gone, good, away]), by_hand("b.png", [good], sure=0.3)]
    assert name_doubtful(found) == [
        "4 of 6 frames are doubtful, look at them:",
        "  a.mp4, frames 1-2, 4 (no mask; the mask jumps: it hardly fits the one before)",
        "  b.png (the model is unsure of the mask)",
    ]
    assert name_doubtful([by_hand("c.mp4", [good, good])]) == []


def test_the_worst_files_are_named_and_the_others_counted() -> None:
    gone = box_mask(0, 0)
    lines = name_doubtful([by_hand(f"{i}.mp4", [gone] * (i + 1)) for i in range(MOST_NAMED + 3)])
    assert lines[1].startswith(f"  {MOST_NAMED + 2}.mp4, frames 0-{MOST_NAMED + 2} ")
    assert len(lines) == MOST_NAMED + 2
    assert lines[-1] == "  and in 3 more files"


def test_frames_that_are_neighbors_by_every_are_one_stretch() -> None:
    assert name_doubtful([by_hand("a.mp4", [box_mask(0, 0)] * 3, every=4)])[1].startswith("  a.mp4, frames 0-8 ")
    assert stretches([0, 3, 4, 5], 1) == "0, 3-5"
    assert stretches(list(range(0, 40, 2)), 1) == "0, 2, 4, 6, 8 and 15 more"


def test_a_video_that_changes_its_size_does_not_jump_there() -> None:
    small, large = box_mask(5, 20), np.repeat(np.repeat(box_mask(5, 20), 2, axis=0), 2, axis=1)
    assert doubts_of(by_hand("a.mp4", [small, large])[1]) == [(), ()]


def test_the_table_and_coco_tell_the_doubts_of_each_frame(tmp_path: Path) -> None:
    out = write_results(write_material(tmp_path / "in"), tmp_path / "out")
    assert call("export", out, "-f", "csv", "-f", "coco")[0] == 0
    table = pd.read_csv(out / "csv" / "frames.csv", keep_default_na=False)
    run = table[table["video"] == "run"]
    assert run["doubts"].tolist() == ["empty" if t in (5, 6) else "" for t in range(FRAMES)]
    assert set(table["sure"]) == {0.9}
    images = {image["file_name"]: image for image in json.loads((out / "coco.json").read_text())["images"]}
    assert images["run/frame_000005.jpg"]["doubts"] == ["empty"]
    assert images["a.png"]["doubts"] == []
    assert images["a.png"]["sure"] == 0.9


def test_predict_ends_with_the_doubtful_frames(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    encode_video(tmp_path / "run.mp4", scene(5)[0], fps=10)
    common = ("-o", tmp_path / "out", "--model", model, "--refine", "none", "--threshold")
    status, said = call("predict", tmp_path / "run.mp4", *common, "1")
    assert status == 0
    found = recorded(tmp_path / "out")
    assert [line for line in said.splitlines() if line][-2:] == name_doubtful(found)
    assert "5 of 5 frames are doubtful" in said
    assert call("predict", tmp_path / "run.mp4", *common, "1", "--quiet") == (0, "")
    call("predict", tmp_path / "run.mp4", *common, "0", "-q")
    sure = [record.sure for record in recorded(tmp_path / "out")[0][1].frames]
    assert all(0 < value < 1 for value in sure)
    assert [image["sure"] for image in coco(recorded(tmp_path / "out"))["images"]] == sure
