"""What was written out for speed gives what NumPy gives."""

from __future__ import annotations

import numpy as np
import pytest

from backdrop.motion.flow_field import lengths
from backdrop.motion.neighbors import NeighborView, median_background, sort_planes
from backdrop.motion.regions.superpixels import Regions, borders, links
from backdrop.student.cues.cue import color_difference
from backdrop.student.resting import _usual_brightness

SHAPE = (11, 17)


@pytest.mark.parametrize("count", range(1, 20))
def test_planes_are_sorted_pixel_by_pixel(count: int) -> None:
    planes = np.random.default_rng(count).integers(0, 9, (count, *SHAPE, 3), dtype=np.uint8)
    assert np.array_equal(sort_planes(list(planes.copy())), np.sort(planes, axis=0))


@pytest.mark.parametrize("count", [2, 3, 5, 12, 600])
def test_the_background_is_the_lower_median_of_the_views_that_show_it(count: int) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, *SHAPE, 3), dtype=np.uint8)
    inside = rng.random((count, *SHAPE)) > 0.2
    shown = inside & (rng.random((count, *SHAPE)) > 0.4)
    found = median_background([NeighborView(*view) for view in zip(images, inside, shown, strict=True)])
    assert found is not None
    for place in np.ndindex(SHAPE):
        chosen = shown[:, *place] if shown[:, *place].sum() >= 2 else inside[:, *place]
        assert found.valid[place] == (chosen.sum() >= 2)
        if chosen.any():
            expected = np.sort(images[chosen, *place], axis=0)[(chosen.sum() - 1) // 2]
            assert np.array_equal(found.image[place], expected)


def test_the_length_of_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    assert np.array_equal(lengths(vectors), np.linalg.norm(vectors, axis=2))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_the_usual_brightness_is_the_median_of_the_means(share: float) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    where = rng.random(SHAPE) < share
    where[3, 4] = True
    assert _usual_brightness(image, where) == pytest.approx(np.median(image[where].mean(axis=1)), abs=1e-12)


def test_a_color_difference_sums_the_channels_without_running_over() -> None:
    white, black = np.full((*SHAPE, 3), 255, np.uint8), np.zeros((*SHAPE, 3), np.uint8)
    assert np.allclose(color_difference(white, black), 3 * 255)


def test_superpixels_that_touch_and_that_follow_are_counted_as_pairs() -> None:
    rng = np.random.default_rng(2)
    here, there = (_regions(rng.integers(0, parts, SHAPE).astype(np.int32), parts) for parts in (7, 5))
    pairs, shared = links(here, there, np.zeros((*SHAPE, 2), np.float32))
    both = np.stack([here.labels.ravel(), there.labels.ravel()], axis=1)
    expected, counts = np.unique(both, axis=0, return_counts=True)
    assert np.array_equal(pairs, expected)
    assert np.array_equal(shared, counts)
    touching, length = borders(here)
    assert (touching[:, 0] < touching[:, 1]).all()
    steps = [here.labels[:, 1:] != here.labels[:, :-1], here.labels[1:] != here.labels[:-1]]
    assert length.sum() == sum(step.sum() for step in steps)


def _regions(labels: np.ndarray, parts: int) -> Regions:
    return Regions(labels, parts, np.bincount(labels.ravel(), minlength=parts).astype(float))
