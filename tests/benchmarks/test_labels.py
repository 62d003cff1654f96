"""What a few labels are worth: which frames are labeled, what is written, what is shared and counted."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backdrop.io.frame_archive import FrameArchive
from backdrop.student.labels.checked import read_labels
from benchmarks import labels
from tests.handmade_run import HEIGHT, WIDTH, make_run


def scored(run: Path, frames: int, j: float) -> None:
    (run / "metrics").mkdir(parents=True)
    rows = [{"sequence": "one", "result": "method", "frame": t, "J": j if t else 0.0} for t in range(frames)]
    pd.DataFrame(rows).to_csv(run / "metrics" / "per_frame.csv", index=False)


@pytest.mark.parametrize("kind", labels.KINDS)
def test_labels_read_off_the_truth_are_read_as_the_truth(kind: str, tmp_path: Path) -> None:
    truth = make_run(tmp_path, {"one": "all"}, frames=8)["one"]
    archive = FrameArchive(tmp_path / "frames" / "one.zip")
    labels.write_labels(tmp_path / "labels", archive, [2, 5], kind)
    found, lines = read_labels(tmp_path / "labels", tmp_path / "frames", [archive], (WIDTH, HEIGHT))
    assert lines == []
    assert set(found["one"]) == {2, 5}
    if kind == "masks":
        assert np.array_equal(found["one"][5].mask > 0, truth[5])  # type: ignore[operator]
    else:
        assert found["one"][5].mask is None
        assert len(found["one"][5].boxes) == 1


def test_rows_share_the_run_without_labels_and_count_the_frames_that_none_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, list[str], str | None]] = []

    def run_one(data: str, root: str, name: str, folder: Path, **rest: Any) -> dict[str, Any]:
        make_run(folder / "data", {"one": "all"}, frames=8)
        scored(folder, 8, 0.5 + 0.1 * len(ran))
        base = rest["base"]
        ran.append((folder.name, rest["overrides"], base and base.name))
        result = {"overrides": rest["overrides"], "cpu_minutes": 1.0}
        (folder / "result.json").write_text(json.dumps(result))
        return result

    monkeypatch.setattr(labels, "run_one", run_one)
    args = Namespace(data="davis2016", work=tmp_path, scale="sequence", frames=[0, 1, 2], kinds=["boxes"], set=[])
    args.spread = True
    rows = labels.run_sequence(args, tmp_path, "one")
    labeled = rows[-1]["labeled"]
    assert len(labeled) == 2
    assert 0 not in labeled
    assert [row["J"] for row in rows] == pytest.approx([5 / 6 * j for j in (0.5, 0.6, 0.7)]), (
        "of six frames, one with J 0"
    )
    assert [name for name, _, _ in ran] == ["0", "1_boxes", "2_boxes"]
    assert [base for _, _, base in ran] == [None, "0", "0"]
    assert ran[1][1] == [f"data.labels={tmp_path / 'sequence' / 'one' / 'labels' / '1_boxes'}"]
    assert labels.run_sequence(args, tmp_path, "one") == rows
    assert len(ran) == 3, "what is done is not run again"
    assert "| one | boxes | 0." in labels.curve(rows)
