"""What a video has to offer to training: bursts without a cut, with how much moves in them and how sharp they are.

All is judged by small gray pictures, one frame after the other. Memory does not grow with the video.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from backdrop.io.images import Gray

BURST = 48
"""Frames of a burst: enough for a background that is the median of its neighbors."""

SHORTEST = 16
"""Shorter pieces between two cuts are left out."""

GRAY_WIDTH = 192
"""Pixels; a blur that can be seen there ruins outlines."""

CELLS = (32, 18)
"""Columns and rows of the coarse picture by which frames are compared."""

MOVED = 4.0
"""Gray levels by which a cell must change to show that something moves: several times the noise of cameras."""

MOVING = 0.5
"""Share of a burst's frames in which something must move."""

TRAVELED = CELLS[0] * CELLS[1] // 4
"""Cells. Where more change, the camera moves, and it says nothing of the subject."""

APART = 8
"""Frames between the two that are compared for motion, so that slow subjects count."""

CUT, CUT_OVER = 12.0, 3.5
"""A frame begins another shot if it differs from the last by so many gray levels on average, and by so many times what
was usual before: a fast pan is no cut."""

LOOK_EVERY = 16
"""Frames of a burst between those by which it is compared with others."""


class Offer(NamedTuple):
    """A burst that could be drawn.

    start, length: its first frame, and how many there are. moving: share of them in which something moves.
    sharp: the sharpness that three quarters of them have at least, without a unit. looks: (N, 18, 32) coarse pictures.
    """

    start: int
    length: int
    moving: float
    sharp: float
    looks: UInt8[np.ndarray, "N 18 32"]


class Watcher:
    """Takes the frames of a video one by one, and keeps the bursts that it offers.

    Args:
        limit: about so many bursts are kept. Of more, the better one of each two, four, ... neighbors stays.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._stride = max(2, limit), 1
        self._found: list[Offer] = []
        self._group: list[Offer] = []
        self._short: Offer | None = None
        self._count = 0
        self._begin_shot()

    def add(self, gray: Gray, follows: bool = True) -> None:
        """The next frame. follows: the source has no frame between the last one and this one that was lost."""
        coarse = cv2.resize(gray, CELLS, interpolation=cv2.INTER_AREA)
        if self._count and (not follows or self._is_cut(coarse)):
            self._end_burst()
            self._begin_shot()
        elif len(self._moving) == BURST:
            self._end_burst()
        before = self._past[0] if self._past else coarse
        self._moving.append(bool(differences(coarse[None], before)[0] > MOVED))
        self._sharp.append(_sharpness(gray))
        if (len(self._moving) - 1) % LOOK_EVERY == LOOK_EVERY // 2:
            self._looks.append(coarse)
        self._past.append(coarse)
        self._count += 1

    def offers(self) -> list[Offer]:
        """The bursts, in order; where every piece of the video is short, the longest one that is no single frame."""
        self._end_burst()
        found = [*self._found, *([max(self._group, key=_worth)] if self._group else [])]
        return found or ([self._short] if self._short is not None else [])

    def _begin_shot(self) -> None:
        self._past: deque[np.ndarray] = deque(maxlen=APART)
        self._usual: deque[float] = deque(maxlen=12)
        self._moving: list[bool] = []
        self._sharp: list[float] = []
        self._looks: list[np.ndarray] = []

    def _is_cut(self, coarse: np.ndarray) -> bool:
        changed = float(cv2.absdiff(coarse, self._past[-1]).mean())
        if self._usual and changed > CUT and changed > CUT_OVER * max(2.0, float(np.median(self._usual))):
            return True  # the first change of a shot is no cut: all of a restless video would be cuts
        self._usual.append(changed)
        return False

    def _end_burst(self) -> None:
        """What was gathered becomes a burst; the shot goes on."""
        count = len(self._moving)
        if count > 1:
            looks = np.array(self._looks or [self._past[-1]], np.uint8)
            moving, sharp = float(np.mean(self._moving)), float(np.quantile(self._sharp, 0.25))
            offer = Offer(self._count - count, count, moving, sharp, looks)
            if count >= SHORTEST:
                self._keep(offer)
            elif self._short is None or count > self._short.length:
                self._short = offer
        self._moving, self._sharp, self._looks = [], [], []

    def _keep(self, offer: Offer) -> None:
        self._group.append(offer)
        if len(self._group) == self._stride:
            self._found.append(max(self._group, key=_worth))
            self._group = []
        if len(self._found) >= 2 * self._limit:
            self._found = [max(pair, key=_worth) for pair in zip(self._found[::2], self._found[1::2], strict=True)]
            self._stride *= 2


def _worth(offer: Offer) -> tuple[bool, int, float]:
    return offer.moving >= MOVING, travel(offer), offer.sharp


def travel(offer: Offer) -> int:
    """In how many cells the first and the last coarse picture of a burst differ, `TRAVELED` at most.

    What turns on the spot changes few cells, what goes somewhere those that it leaves and those that it takes.
    """
    apart = offer.looks[-1].astype(np.float32) - offer.looks[0]
    return min(TRAVELED, int((np.abs(apart - np.median(apart)) > MOVED).sum()))


def differences(looks: UInt8[np.ndarray, "N 18 32"], other: UInt8[np.ndarray, "18 32"]) -> Float32[np.ndarray, "N"]:
    """By how many gray levels pictures differ from another: in their third most changed cell, since two may be noise,
    and without what all cells share, such as a lamp that flickers."""
    apart = (looks.astype(np.float32) - other).reshape(len(looks), -1)
    apart = np.abs(apart - np.median(apart, axis=1, keepdims=True))
    return np.partition(apart, -3, axis=1)[:, -3]


def _sharpness(gray: Gray) -> float:
    """Fine detail over all contrast: what blur takes away, and darkness does not."""
    return float(cv2.Laplacian(gray, cv2.CV_32F).var() / (float(gray.var()) + 1.0))
