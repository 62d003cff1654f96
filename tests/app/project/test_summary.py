"""The last screen: with truth a table of scores, without it how sure the masks are and where to look first."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from backdrop.app.project import summary as module
from backdrop.app.project.summary import LookedAt, summary
from backdrop.errors import BackdropError
from backdrop.run.chunks import spread
from tests.handmade_run import make_run, write_index, write_masks, write_predictions
from tests.scored_project import scored_project
from tests.small_pipeline import ROOT


def unscored(folder: Path, names: list[str]) -> Path:
    """A project without truth, whose masks are perfect and whose model is certain of them."""
    make_run(folder / "data", dict.fromkeys(names, "all"), frames=6)
    (folder / "metrics").mkdir()
    (folder / "metrics" / "scores.json").write_text(json.dumps({"frames_scored": 0, "sequences": 0}))
    return folder


def spoil(folder: Path, name: str, soft: np.ndarray, masks: list[np.ndarray]) -> None:
    boxes = [np.array([0.0, 0.0, 0.5, 0.5])] * len(masks)
    write_predictions(folder / "data" / "predictions", name, dict(enumerate([soft] * len(masks))), boxes)
    write_masks(folder / "data" / "masks", name, dict(enumerate(masks)))


def test_with_truth_it_is_a_table_of_five_rows_and_three_paths(tmp_path: Path) -> None:
    project = scored_project(tmp_path)
    for path in module.PATHS.values():
        (project / path).mkdir(parents=True)
    lines = summary(project).splitlines()
    assert lines[0].split() == ["J", "F", "box"]
    assert [line.split("  ")[0] for line in lines[1:5]] == list(module.ROWS.values())
    scores = json.loads((project / "metrics" / "scores.json").read_text())
    assert lines[1].split()[1:3] == [f"{scores['method'][key]:.2f}" for key in ("J_mean", "F_mean")]
    assert lines[4].split()[-1] == "-", "a baseline has no boxes"
    assert lines[6].startswith("Look first at bad: its J is the lowest, ")
    assert lines[7:] == [f"{name:8}{project / path}" for name, path in module.PATHS.items()]
    assert max(map(len, lines[:7])) <= 100


def test_without_truth_it_says_how_sure_the_masks_are(tmp_path: Path) -> None:
    lines = summary(unscored(tmp_path, ["run1", "run2"])).splitlines()
    assert lines == [
        "Masks of 2 videos. How sure the model is of them: 1.00 (its own view; 1.00 is quite sure).",
        "No video stands out: look at the report all the same, as a model can be sure and wrong.",
    ]


def test_doubtful_videos_are_named_with_the_reason_the_worst_first(tmp_path: Path) -> None:
    project = unscored(tmp_path, ["fine", "none", "half", "faint", "jumps"])
    empty, full, tiny = np.zeros((80, 128), bool), np.zeros((80, 128), bool), np.zeros((80, 128), bool)
    full[10:60, 10:60] = True
    tiny[10:14, 10:14] = True
    spoil(project, "none", empty * 1.0, [empty] * 6)
    spoil(project, "half", full * 1.0, [full, empty] * 3)
    spoil(project, "faint", np.where(full, 0.55, 0.1), [full] * 6)
    spoil(project, "jumps", full * 1.0, [full, tiny] * 3)
    text = summary(project)
    listed = text.split("Look first at:\n")[1].splitlines()
    assert listed[0] == "  none: no mask at all (-)"
    assert listed[1] == "  half: no mask in 50% of the frames (1.00)"
    assert listed[2].startswith("  faint: the model is unsure of its masks (0.")
    assert listed[3].startswith("  jumps: ")
    assert "masks differ in size up to 156 times" in listed[3]
    assert "fine" not in text


def test_five_videos_are_named_and_the_rest_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = unscored(tmp_path, ["one"])
    many = [LookedAt(f"v{n}", 0.1 + n / 100, 0.0, 1.0) for n in range(8)]
    monkeypatch.setattr(module, "_looked_at", lambda _: iter(many))
    lines = summary(project).splitlines()
    assert [line.split(":")[0] for line in lines[2:7]] == [f"  v{n}" for n in range(5)]
    assert lines[7] == "  and 3 more"


def test_footage_that_was_not_read_is_named(tmp_path: Path) -> None:
    project = unscored(tmp_path, ["one"])
    rows = [{"sequence": "one", "split": "all", "frames": 6}]
    rows.append({"sequence": "cut", "split": "all", "frames": 0, "status": "skipped", "source": "cut.mp4"})
    write_index(project / "data" / "frames", rows)
    assert "Not read, or not to the end: cut.mp4 (skipped). Why: data/frames/index.csv" in summary(project)


def test_of_a_long_video_some_frames_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = unscored(tmp_path, ["one"])
    monkeypatch.setattr(module, "LOOKED_AT", 1)
    seen: list[int] = []
    plain = module.MaskArchive.gray
    monkeypatch.setattr(module.MaskArchive, "gray", lambda self, t: seen.append(t) or plain(self, t))
    make_run(project / "data", {"one": "all"}, frames=40)
    summary(project)
    assert sorted(set(seen)) == spread(range(40), 8)


def test_damaged_scores_are_one_line(tmp_path: Path) -> None:
    project = unscored(tmp_path, ["one"])
    (project / "metrics" / "scores.json").write_text("{")
    with pytest.raises(BackdropError, match=r"scores\.json holds no scores"):
        summary(project)


def test_no_scores_no_words(tmp_path: Path) -> None:
    assert summary(tmp_path) == ""


def test_make_demo_ends_in_this_screen() -> None:
    """In the clone: no line of thousands of characters, as `dvc metrics show` writes."""
    told = ["make", "-n", "--no-print-directory", "demo"]  # inside `make test` it would name its directory
    said = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1].endswith(" backdrop train")
