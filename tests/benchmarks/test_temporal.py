"""T, the instability of outlines over time."""

from __future__ import annotations

import numpy as np

from benchmarks.temporal import temporal_instability


def disk(x: float, radius: float, stretch: float = 1.0) -> np.ndarray:
    rows, columns = np.mgrid[:160, :240]
    return (columns - x) ** 2 / stretch + (rows - 80) ** 2 * stretch < radius**2


def test_the_same_shape_costs_nothing_wherever_it_lies() -> None:
    assert temporal_instability([disk(80, 30), disk(130, 30), disk(131, 30)]) < 1e-6


def test_a_shape_that_changes_costs_more_the_more_it_changes() -> None:
    little = temporal_instability([disk(100, 30), disk(100, 30, 1.15)])
    much = temporal_instability([disk(100, 30), disk(100, 30, 2.0)])
    assert 0 < little < much


def test_frames_without_an_outline_are_left_out() -> None:
    empty = np.zeros((160, 240), bool)
    assert np.isnan(temporal_instability([disk(100, 30), empty]))
    assert temporal_instability([disk(100, 30), disk(100, 30), empty, disk(100, 30)]) < 1e-6
