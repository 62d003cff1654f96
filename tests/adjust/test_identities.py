"""Tracks of a video: numbers that were lost or swapped come back; odd videos have a known outcome."""

from __future__ import annotations

import numpy as np
import pytest

from backdrop.adjust.identities import MaskedFrame, steady_tracks
from backdrop.crf.instances import TRACK_PATIENCE, Linker

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (60, 240)


def square(left: float, top: float = 20, side: int = 16) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    x, y = round(left), round(top)
    mask[max(y, 0) : y + side, max(x, 0) : x + side] = True
    return mask


def linked(frames: list[list[np.ndarray]]) -> list[MaskedFrame]:
    """Numbered as `predict` numbers them."""
    linker = Linker()
    return [MaskedFrame(float(t), tuple(linker.numbers(masks)), tuple(masks)) for t, masks in enumerate(frames)]


def test_a_subject_that_left_its_mask_behind_in_a_gap_has_its_first_number_back() -> None:
    frames = [[square(5 + 5 * t)] if t not in range(10, 16) else [] for t in range(30)]
    shown = linked(frames)
    assert {number for frame in shown for number in frame.numbers} == {1, 2}, "the linker alone takes it for two"
    found = steady_tracks(shown)
    assert {number for own in found.numbers for number in own} == {1}
    assert all(list(boxes) == [1] for boxes in found.boxes), "bridged"
    assert all(abs(boxes[1][0] - (5 + 5 * t)) < 3 for t, boxes in enumerate(found.boxes))


def test_one_that_comes_elsewhere_stays_another() -> None:
    shown = linked([[square(5 + t)] if t < 10 else [square(200 - t)] for t in range(20)])
    assert steady_tracks(shown).numbers == [(1,)] * 10 + [(2,)] * 10


def test_numbers_that_were_swapped_for_two_frames_come_back() -> None:
    masks = [(square(5 + 3 * t, 4), square(150 - 3 * t, 36)) for t in range(30)]
    shown = [MaskedFrame(float(t), (2, 1) if t in (14, 15) else (1, 2), both) for t, both in enumerate(masks)]
    assert steady_tracks(shown).numbers == [(1, 2)] * 30


def test_a_longer_absence_is_not_bridged() -> None:
    gap = TRACK_PATIENCE + 1
    shown = [
        MaskedFrame(float(t), (1,), (square(50),)) if not 5 <= t < 5 + gap else MaskedFrame(float(t), (), ())
        for t in range(30)
    ]
    assert [t for t, boxes in enumerate(steady_tracks(shown).boxes) if not boxes] == list(range(5, 5 + gap))
    shorter = [frame for frame in shown if frame.time != 5]
    assert all(steady_tracks(shorter).boxes)


def test_a_mask_that_fits_no_track_keeps_its_number() -> None:
    far = [MaskedFrame(float(t), (1,), (square(50 if t != 8 else 180),)) for t in range(20)]
    found = steady_tracks(far)
    assert found.numbers == [(1,)] * 20
    assert abs(found.boxes[8][1][0] - 50) < 3


def test_videos_without_a_mask_without_a_frame_and_of_one_frame() -> None:
    nothing = steady_tracks([MaskedFrame(float(t), (), ()) for t in range(4)])
    assert nothing.boxes == [{}] * 4
    assert nothing.numbers == [()] * 4
    assert steady_tracks([]) == ([], [])
    one = steady_tracks([MaskedFrame(0.0, (3,), (square(50),))])
    assert one.numbers == [(3,)]
    assert one.boxes[0][3].tolist() == [50, 20, 66, 36]


def test_every_nth_frame_is_a_frame() -> None:
    shown = linked([[square(5 + 5 * t)] for t in range(20)])
    sparse = [frame._replace(time=10 * frame.time) for frame in shown]
    for one, other in zip(steady_tracks(shown).boxes, steady_tracks(sparse).boxes, strict=True):
        assert np.allclose(one[1], other[1])
