"""Measures of masks that tell subjects apart, on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality

from backdrop.score.instance_measures import (
    ToldFrame,
    instance_figures,
    matched_ious,
    panoptic_quality,
    region_precisions,
)


def bar(left: int, right: int) -> np.ndarray:
    """Columns left to right of an image of 10 x 4 pixels."""
    mask = np.zeros((4, 10), bool)
    mask[:, left:right] = True
    return mask


def test_numbers_mean_nothing() -> None:
    truth = [bar(0, 4), bar(4, 10)]
    for masks in (truth, truth[::-1]):
        assert matched_ious(masks, truth).tolist() == [1, 1]
        figures = instance_figures([ToldFrame(masks, [0.9, 0.8], truth)])
        assert figures == pytest.approx(dict.fromkeys(figures, 1.0))


def test_one_mask_for_two_counts_once() -> None:
    """The whole fits the larger one with 6 of 10 columns, and the other has none."""
    frame = ToldFrame([bar(0, 10)], [1.0], [bar(0, 4), bar(4, 10)])
    assert matched_ious(frame.masks, frame.truth) == pytest.approx([0, 0.6])
    assert panoptic_quality([frame]) == pytest.approx(0.6 / 1.5)
    found = region_precisions([frame], [0.5, 0.7])
    assert found == pytest.approx([51 / 101, 0])  # recall reaches a half: 51 of 101 levels


def test_a_sure_mask_that_is_wrong_costs_precision() -> None:
    truth = [bar(0, 4)]
    right_first = ToldFrame([bar(0, 4), bar(6, 8)], [0.9, 0.1], truth)
    wrong_first = ToldFrame([bar(0, 4), bar(6, 8)], [0.1, 0.9], truth)
    assert region_precisions([right_first], [0.5]) == pytest.approx([1])
    assert region_precisions([wrong_first], [0.5]) == pytest.approx([0.5])


def test_a_mask_where_nobody_is_costs_quality_and_precision() -> None:
    good = ToldFrame([bar(0, 4)], [0.5], [bar(0, 4)])
    empty = ToldFrame([bar(0, 4)], [0.9], [])
    assert panoptic_quality([good, empty]) == pytest.approx(1 / 1.5)
    assert region_precisions([good, empty], [0.5]) == pytest.approx([0.5])


def test_what_is_undefined_is_not_a_number() -> None:
    assert np.isnan(panoptic_quality([]))
    assert np.isnan(region_precisions([ToldFrame([], [], [])], [0.5])).all()
    assert region_precisions([ToldFrame([], [], [bar(0, 4)])], [0.5]).tolist() == [0]


def test_quality_is_that_of_torchmetrics() -> None:
    """Maps of category and number; the background is stuff, and not averaged."""
    rng, frames = np.random.default_rng(0), []
    theirs = PanopticQuality(things={1}, stuffs={0}, return_per_class=True)
    for _ in range(6):
        maps = []
        for _ in range(2):
            cuts = np.sort(rng.choice(np.arange(1, 10), 2, replace=False))
            number = np.searchsorted(cuts, np.arange(10), side="right")
            maps.append(np.tile(number, (4, 1)))
        found, wanted = ([one == k for k in (1, 2)] for one in maps)
        frames.append(ToldFrame(found, [1, 1], wanted))
        pairs = [torch.from_numpy(np.stack([one > 0, one], axis=-1).astype(np.int64))[None] for one in maps]
        theirs.update(*pairs)
    assert panoptic_quality(frames) == pytest.approx(float(theirs.compute()[0, 0]), abs=1e-6)
