"""Boxes of a track, steadied: noise and outliers go, motion stays, frames without a mask are bridged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backdrop.adjust.boxes import BoxWeights, adjust_boxes, extents
from backdrop.adjust.energy import best_truncated, changes, minimize_energy, robust

pytestmark = pytest.mark.usefixtures("one_thread")


def moving(frames: int = 40) -> np.ndarray:
    """(T, 4) a box of 40 x 80 pixels on a curve."""
    t = np.arange(frames, dtype=float)
    left, top = 20 + 4 * t, 50 + 10 * np.sin(t / 8)
    return np.stack([left, top, left + 40, top + 80], axis=1)


def jitter(boxes: np.ndarray) -> float:
    return float(np.abs(np.diff(boxes, 2, axis=0)).mean())


def each_alone(boxes: np.ndarray) -> list[np.ndarray]:
    return [box[None][np.isfinite(box[:1])] for box in boxes]


def test_robust_terms_by_hand() -> None:
    assert robust(torch.tensor([0.5, -3.0], dtype=torch.float64)).tolist() == [0.125, 2.5]
    costs = torch.tensor([[3.0, 1.0], [9.0, 9.0], [0.0, 9.0]], dtype=torch.float64)
    there = torch.tensor([[True, True], [True, True], [False, False]])
    assert best_truncated(costs, there, 4.0).tolist() == [1, 4, 4]
    assert best_truncated(costs[:, :0], there[:, :0], 4.0).tolist() == [4, 4, 4]


def test_changes_are_per_unit_of_time() -> None:
    times = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    values = 5 * times[:, None]
    assert changes(values, times, 1).flatten().tolist() == [5, 5]
    assert changes(values, times, 2).flatten().tolist() == [0]
    assert changes(values[:1], times[:1], 2).shape == (0, 1)


def test_the_end_of_the_search_is_never_above_its_start() -> None:
    start = [torch.tensor([3.0, -2.0], dtype=torch.float64)]
    assert minimize_energy(lambda x: (x**2).sum(), start)[0].abs().max() < 1e-6
    assert torch.equal(minimize_energy(lambda x: 0 * x.sum(), start)[0], start[0])
    assert torch.equal(minimize_energy(lambda x: x.sum() * torch.nan, start)[0], start[0])


def test_noise_and_outliers_go_and_motion_stays() -> None:
    rng, truth = np.random.default_rng(0), moving()
    seen = truth + rng.normal(0, 2, truth.shape)
    seen[7, 3] -= 50
    seen[20] += 150
    found = adjust_boxes(seen, each_alone(seen), np.arange(40.0))
    assert np.abs(found - truth).mean() < np.abs(seen - truth).mean() / 2
    assert np.abs(found[[7, 20]] - truth[[7, 20]]).max() < 12
    assert jitter(found) < jitter(seen) / 2


def test_the_nearest_candidate_counts() -> None:
    truth = moving()
    wrong = truth.copy()
    wrong[15:17] += 60
    candidates = [np.stack([box + 60, box]) for box in truth]
    found = adjust_boxes(wrong, candidates, np.arange(40.0))
    assert np.abs(found - truth).max() < 6
    alone = adjust_boxes(wrong, each_alone(wrong), np.arange(40.0), BoxWeights(window=1, limit=1e6))
    assert np.abs(alone - truth).max() > 15, "the others are what helps"


def test_frames_without_a_mask_are_bridged() -> None:
    truth = moving()
    own = truth.copy()
    own[10:16] = np.nan
    found = adjust_boxes(own, each_alone(own), np.arange(40.0))
    assert np.isfinite(found).all()
    assert np.abs(found[10:16] - truth[10:16]).max() < 4


@pytest.mark.parametrize("every", [1, 5])
def test_the_unit_of_time_does_not_matter(every: int) -> None:
    seen = moving() + np.random.default_rng(1).normal(0, 2, (40, 4))
    found = adjust_boxes(seen, each_alone(seen), every * np.arange(40.0) + 3)
    assert np.allclose(found, adjust_boxes(seen, each_alone(seen), np.arange(40.0)))


def test_a_missing_frame_bends_no_even_motion() -> None:
    truth = moving()[:, [0, 0, 2, 2]] * [1, 0, 1, 1]
    times = np.delete(np.arange(40.0), [8, 9, 10, 11])
    kept = truth[times.astype(int)]
    assert np.abs(adjust_boxes(kept, each_alone(kept), times, BoxWeights(window=1)) - kept).max() < 0.5


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_few_frames_keep_their_boxes(frames: int) -> None:
    truth = moving(frames)
    assert np.abs(adjust_boxes(truth, each_alone(truth), np.arange(float(frames))) - truth).max() < 3
    if frames == 1:
        assert np.array_equal(adjust_boxes(truth, [truth], np.zeros(1)), truth)


def test_candidates_are_a_mask_and_its_parts() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:6, 3:9] = mask[10:12, 20:21] = True
    assert extents([mask]).tolist() == [[3, 2, 21, 12], [3, 2, 9, 6], [20, 10, 21, 12]]
    assert extents([mask[:8]]).tolist() == [[3, 2, 9, 6]]
    assert extents([]).shape == (0, 4)
    assert extents([mask & False]).shape == (0, 4)
