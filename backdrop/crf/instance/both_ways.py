"""Subjects told apart by what comes before and by what comes after: a video in chunks, each seen in both directions.

Who touches somebody else in the first frame may stand apart in the tenth. So each chunk is divided twice: forward, by
what was known before it, and backward, from the end of the next chunk. A frame gets the division that finds more
subjects; of equal ones, that in which all subjects have stood apart more recently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from scipy.optimize import linear_sum_assignment

from backdrop.crf.instance.tracking import MOST_NUMBERS, Divided, FrameToTell, SubjectTracker
from backdrop.crf.instances import Labels

TOLD_CHUNK = 12
"""Frames of a chunk; two chunks are in memory."""

ONE_SUBJECT = 0.5
"""Numbers of the two directions are one subject's where their masks share at least this part of the smaller one."""


def told_apart(frames: Iterable[FrameToTell], tracker: SubjectTracker) -> Iterator[Labels]:
    """The labels of each frame, in order: 0 or the subject's number, (H, W) uint8.

    Args:
        tracker: has seen what came before; at the end it has seen these frames, too. What follows a whole number of
            chunks is the same as if it had been found in one go.
    """
    waiting = iter(frames)
    chunk = list(islice(waiting, TOLD_CHUNK))
    while chunk:
        ahead = list(islice(waiting, TOLD_CHUNK))
        onward, back = tracker.copy(), tracker.fresh()
        forward = [onward.divide_next(frame) for frame in chunk]
        backward = [back.divide_next(frame) for frame in (chunk + ahead)[::-1]][::-1][: len(chunk)]
        for frame, labels in zip(chunk, joined_ways(forward, backward, tracker.latest), strict=True):
            tracker.follow(frame.image, labels)
            yield labels
        chunk = ahead


def joined_ways(forward: Sequence[Divided], backward: Sequence[Divided], latest: int = 0) -> list[Labels]:
    """Of each frame the better division, with the numbers of the forward direction; new subjects have new ones.

    Args:
        latest: the largest number that was given before.
    """
    own, others = (_numbers(way) for way in (forward, backward))
    shared = np.zeros((len(others), len(own)))
    for one, other in zip(forward, backward, strict=True):
        for i, number in enumerate(others):
            there = other.labels == number
            for j, known in enumerate(own):
                shared[i, j] += np.count_nonzero(there & (one.labels == known))
    areas_own = np.array([sum(np.count_nonzero(one.labels == n) for one in forward) for n in own])
    areas = np.array([sum(np.count_nonzero(one.labels == n) for one in backward) for n in others])
    names = {0: 0}
    if shared.size:
        shares = shared / np.maximum(np.minimum(areas[:, None], areas_own[None]), 1)
        overlap = shared / np.maximum(areas[:, None] + areas_own[None] - shared, 1)
        for i, j in zip(*linear_sum_assignment(-overlap), strict=True):
            if shares[i, j] >= ONE_SUBJECT:
                names[others[i]] = own[j]
    for number in others:
        if number not in names:
            names[number] = _free_number([latest, *own, *names.values()])
    table = np.zeros(256, np.uint8)
    table[list(names)] = list(names.values())
    return [
        _better(one, Divided(table[other.labels], other.doubt)) for one, other in zip(forward, backward, strict=True)
    ]


def _numbers(way: Sequence[Divided]) -> list[int]:
    return sorted({int(n) for one in way for n in np.unique(one.labels) if n})


def _free_number(taken: Sequence[int]) -> int:
    number = max(taken) + 1
    return number if number <= MOST_NUMBERS else next(n for n in range(1, MOST_NUMBERS + 1) if n not in taken[1:])


def _better(one: Divided, other: Divided) -> Labels:
    counts = [len(np.unique(way.labels[way.labels > 0])) for way in (one, other)]
    if counts[0] != counts[1]:
        return one.labels if counts[0] > counts[1] else other.labels
    return one.labels if one.doubt <= other.doubt else other.labels
