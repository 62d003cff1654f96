"""The tracks of a video's subjects: which boxes are one subject's, its steadied boxes, and the number of each mask.

Three steps. A track that ends and one that begins where the first would have come to are joined. Each track's boxes are
adjusted; the masks of all subjects are candidates, so a track goes on where numbers were swapped. At the end a mask
gets the number of the track whose box it fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from backdrop.adjust.boxes import BoxEdges, BoxWeights, adjust_boxes, extents
from backdrop.crf.instances import TRACK_PATIENCE
from backdrop.io.masks import Mask

FIT = 0.5
"""A mask fits a track's box where their centers are nearer than this share of the larger one's size."""

JOINED = 1.0
"""Tracks are joined where they miss each other by less. Over a gap a subject may turn or stop."""

GROWN = np.log(2)
"""And where sides differ by no more than this factor's logarithm."""


class MaskedFrame(NamedTuple):
    """What a frame shows. time: in any unit. numbers: of the subjects, each once. masks: (H, W) bool, not empty."""

    time: float
    numbers: tuple[int, ...]
    masks: tuple[Mask, ...]


class Tracks(NamedTuple):
    """What is made of it, a row per frame.

    boxes: number -> box, also where the subject is not seen for at most `TRACK_PATIENCE` frames.
    numbers: of the frame's masks, in their order.
    """

    boxes: list[dict[int, BoxEdges]]
    numbers: list[tuple[int, ...]]


def steady_tracks(frames: Sequence[MaskedFrame], weights: BoxWeights = BoxWeights()) -> Tracks:  # noqa: B008
    """The steadied tracks of a video. One without a mask has none; a subject in one frame keeps its box."""
    candidates = [extents(frame.masks) for frame in frames]
    whole = [[extents([mask])[0] for mask in frame.masks] for frame in frames]
    numbers = _joined([frame.numbers for frame in frames], whole)
    times = np.array([frame.time for frame in frames], np.float64)
    boxes: list[dict[int, BoxEdges]] = [{} for _ in frames]
    for number in sorted({one for own in numbers for one in own}):
        own = np.full((len(frames), 4), np.nan)
        for t, (here, found) in enumerate(zip(numbers, whole, strict=True)):
            if number in here:
                own[t] = found[here.index(number)]
        for first, last in _stretches(np.flatnonzero(np.isfinite(own[:, 0]))):
            steady = adjust_boxes(own[first:last], candidates[first:last], times[first:last], weights)
            for t, box in enumerate(steady, first):
                boxes[t][number] = box
    return Tracks(boxes, [_fitted(*row) for row in zip(numbers, whole, boxes, strict=True)])


def _stretches(seen: np.ndarray) -> list[tuple[int, int]]:
    """First frame and the one after the last, where a subject is never unseen for longer than `TRACK_PATIENCE`."""
    parts = np.split(seen, np.flatnonzero(np.diff(seen) > TRACK_PATIENCE + 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


class _End(NamedTuple):
    """Where a track begins or ends: its number, the frame, the box, and the motion of its center per frame."""

    number: int
    frame: int
    box: BoxEdges
    motion: np.ndarray


def _joined(numbers: Sequence[tuple[int, ...]], boxes: Sequence[Sequence[BoxEdges]]) -> list[tuple[int, ...]]:
    """The numbers, where a subject that got a new one within `TRACK_PATIENCE` frames has its first one back."""
    seen: dict[int, list[tuple[int, BoxEdges]]] = {}
    for t, (here, found) in enumerate(zip(numbers, boxes, strict=True)):
        for number, box in zip(here, found, strict=True):
            seen.setdefault(number, []).append((t, box))
    starts = [_track_end(number, track[:3], 0) for number, track in seen.items()]
    ends = [_track_end(number, track[-3:], -1) for number, track in seen.items()]
    costs = np.array([[_parted(end, start) for start in starts] for end in ends]).reshape(len(ends), len(starts))
    earlier = {
        starts[j].number: ends[i].number
        for i, j in zip(*linear_sum_assignment(np.minimum(costs, 1e3)), strict=True)
        if np.isfinite(costs[i, j])
    }

    def first(number: int) -> int:
        while number in earlier:
            number = earlier[number]
        return number

    return [tuple(first(number) for number in here) for here in numbers]


def _track_end(number: int, track: Sequence[tuple[int, BoxEdges]], at: int) -> _End:
    (before, one), (after, other) = track[0], track[-1]
    motion = (_center(other) - _center(one)) / max(after - before, 1)
    return _End(number, track[at][0], track[at][1], motion)


def _parted(end: _End, start: _End) -> float:
    """How far the ends of two tracks lie apart after an even motion, in sizes; infinite if they are not one's."""
    gap = start.frame - end.frame
    if not 0 < gap <= TRACK_PATIENCE + 1:
        return np.inf
    moved = gap * (end.motion + start.motion) / 2
    return _misfit(end.box + np.tile(moved, 2), start.box, JOINED)


def _misfit(box: BoxEdges, other: BoxEdges, most: float = FIT) -> float:
    """Between the centers, in sizes of the larger box; infinite where it is above `most`, or sides are too unlike."""
    sides, others = box[2:] - box[:2], other[2:] - other[:2]
    size = max(float(np.sqrt(np.prod(sides))), float(np.sqrt(np.prod(others))))
    apart = float(np.linalg.norm(_center(box) - _center(other))) / size
    return apart if apart <= most and np.abs(np.log(sides / others)).max() <= GROWN else np.inf


def _center(box: BoxEdges) -> Float[np.ndarray, "2"]:
    return (box[:2] + box[2:]) / 2


def _fitted(numbers: tuple[int, ...], found: Sequence[BoxEdges], boxes: dict[int, BoxEdges]) -> tuple[int, ...]:
    """The masks' numbers by the boxes that they fit. A mask that fits none keeps its own, if no other has it."""
    tracks = list(boxes)
    costs = np.array([[_misfit(box, boxes[number]) for number in tracks] for box in found])
    given: dict[int, int] = {}
    if costs.size:
        for i, j in zip(*linear_sum_assignment(np.minimum(costs, 1e3)), strict=True):
            if np.isfinite(costs[i, j]):
                given[i] = tracks[j]
    for i, number in enumerate(numbers):
        if i not in given and number not in given.values():
            given[i] = number
    free = (number for number in [*numbers, *tracks, *range(1, 256)] if number not in given.values())
    return tuple(given[i] if i in given else given.setdefault(i, next(free)) for i in range(len(numbers)))
