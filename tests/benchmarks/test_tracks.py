"""The benchmark of tracks: its figures, and its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import tracks
from benchmarks.tracks import box_figures, jitter, lines, of_run, worsened
from tests.scored_project import scored_project

pytestmark = pytest.mark.usefixtures("one_thread")


def masks(frames: int = 20) -> list[np.ndarray]:
    found = np.zeros((frames, 80, 120), bool)
    for t in range(frames):
        found[t, 20:60, 10 + 3 * t : 40 + 3 * t] = True
    return list(found)


def test_jitter_by_hand() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10], [np.nan] * 4])
    assert jitter(boxes, 100) == 0
    boxes[1, [0, 2]] += 4  # the center's x: a second difference of 8, of four numbers
    assert jitter(boxes, 100) == 2
    assert np.isnan(jitter(boxes[:2], 100))


def test_figures_of_boxes() -> None:
    truth = masks()
    holes = [mask & (t not in (7, 8)) for t, mask in enumerate(truth)]
    known = [*truth[:-1], None]
    figures = box_figures(holes, known)
    assert (figures["frames"], figures["without_mask"], figures["bridged"]) == (20, 2, 2)
    assert figures["iou_before"] == pytest.approx(17 / 19)
    assert figures["iou_after"] > 0.95
    assert figures["iou_bridged"] > 0.9
    assert figures["jitter_truth"] == pytest.approx(0)


def test_worsened_masks_lose_and_gain() -> None:
    clear = np.zeros((192, 320), bool)
    clear[40:130, 100:140] = True
    areas = [mask.sum() for mask in worsened([clear] * 60, np.random.default_rng(0))]
    assert 0 in areas
    assert len(set(areas)) > 5
    assert worsened([clear] * 3, np.random.default_rng(5))[0].shape == clear.shape


def test_a_finished_run_and_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scored_project(tmp_path / "run")
    rows = of_run(run)
    assert rows
    assert {"iou_before", "iou_after", "jitter_truth"} <= set(rows[0])
    monkeypatch.setattr(tracks, "CLIPS", 1)
    monkeypatch.setattr(tracks, "FRAMES", 12)
    monkeypatch.setattr(tracks, "SIZE", (160, 96))
    rendered = tracks.of_rendered()
    assert rendered[0]["frames"] == 12
    points = ("surest", *tracks.SKELETONS, "no prior")
    skeletons = [{"noise": 0.1, "outliers": 0.2, "points": name, "mean": 3.0, "median": 2.0} for name in points]
    said = "\n".join(lines({"runs": rows, "rendered": rendered, "skeletons": skeletons}))
    assert "| rendered (1) | 12 |" in said
    assert "| adjusted | 3.00 / 2.00 |" in said
