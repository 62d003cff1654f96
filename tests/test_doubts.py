"""Doubts: what speaks against a mask, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from backdrop.doubts import JUMP_AREA, MEANING, SIZE_CHANGE, UNSURE, Doubt, doubts, sureness

USUAL = 0.1


def told(areas: list[float], overlaps: list[float | None] | None = None, sure: float = 0.9) -> list[tuple[Doubt, ...]]:
    return doubts(areas, overlaps or [None] + [0.8] * (len(areas) - 1), [sure] * len(areas))


def test_a_steady_and_sure_mask_raises_no_doubt() -> None:
    assert told([USUAL * (1 + 0.1 * t) for t in range(10)]) == [()] * 10


def test_each_doubt_is_raised_by_its_own_sign() -> None:
    assert told([USUAL, 0.0, USUAL])[1] == (Doubt.empty,)
    assert told([USUAL], sure=UNSURE - 0.01) == [(Doubt.unsure,)]
    assert told([USUAL] * 3, [None, 0.05, 0.9]) == [(), (Doubt.jump,), ()]
    assert told([USUAL, USUAL * JUMP_AREA * 0.95, USUAL * JUMP_AREA * 0.95])[1] == (Doubt.jump,)
    slowly = list(np.geomspace(USUAL, USUAL * SIZE_CHANGE * 1.5, 6))
    assert told([USUAL] * 8 + slowly)[-1] == (Doubt.size,)
    assert told([USUAL] * 8 + [USUAL / slow * USUAL for slow in slowly])[-1] == (Doubt.size,)


def test_nothing_jumps_after_an_empty_mask_or_one_of_another_size() -> None:
    assert told([USUAL, 0.0, USUAL], [None, 0.0, 0.0])[2] == ()
    assert told([USUAL, USUAL], [None, None]) == [(), ()]


def test_a_video_without_masks_and_none_at_all() -> None:
    assert told([0.0, 0.0]) == [(Doubt.empty,)] * 2
    assert doubts([], [], []) == []


def test_every_doubt_has_words() -> None:
    assert set(MEANING) == set(Doubt)


@pytest.mark.parametrize(("inside", "outside", "expected"), [(1.0, 0.0, 1.0), (0.5, 0.0, 0.5), (1.0, 1.0, 0.25)])
def test_sureness_is_the_expected_overlap(inside: float, outside: float, expected: float) -> None:
    mask = np.zeros((20, 30), bool)
    mask[:10, :15] = True
    soft = np.where(mask, inside, outside).astype(np.float32)
    assert sureness(soft, mask) == pytest.approx(expected, abs=1e-6)
    assert sureness(soft, np.zeros_like(mask)) == 0
