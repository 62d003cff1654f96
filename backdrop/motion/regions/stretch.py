"""Consecutive frames of a stabilized sequence, and the flow between them: what methods see that look at many at once.

Convention: pixels of the working size, x to the right, y down. Soft masks are float32 in [0, 1], 1 = foreground.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from backdrop.io.masks import Soft
from backdrop.motion.flow_field import dense_inverse_search, magnitude
from backdrop.motion.homography import neighbor_of, warp
from backdrop.motion.moving import flow_soft
from backdrop.motion.neighbors import StabilizedSequence

FIELDS_HELD = 128
"""Flow fields that are held at a time."""

AT_REST = 0.5
"""Pixels that the fastest 2 % of a frame move at least, or its flow is noise and nothing moves in it."""


class ResidualFlow(NamedTuple):
    """Flow of a frame to its neighbor, stabilized: pixels, zero where the background is; and where it is known."""

    flow: Float32[np.ndarray, "H W 2"]
    valid: Bool[np.ndarray, "H W"]


def flow_of(sequence: StabilizedSequence, frames: range, t: int) -> ResidualFlow:
    """DIS flow of the t-th of the frames to its neighbor laid over it. Nothing is known where no homography was found,
    or outside of the region of interest."""
    size, here = sequence.size, frames[t]
    other = neighbor_of(here, len(sequence), sequence.gap)
    H = sequence.motion(other, here) if other != here else None
    if H is None:
        shape = (size[1], size[0])
        return ResidualFlow(np.zeros((*shape, 2), np.float32), np.zeros(shape, bool))
    target = sequence.image(here)
    warped, inside = warp(sequence.image(other), H, size)
    flow = dense_inverse_search(target, np.where(inside[..., None], warped, target))
    return ResidualFlow(flow, inside if sequence.region is None else inside & sequence.region)


class Stretch:
    """Some consecutive frames of a sequence; t counts from the first of them.

    Args:
        frames: their numbers in the sequence.
    """

    def __init__(self, sequence: StabilizedSequence, frames: range) -> None:
        self.sequence, self.frames, self.size = sequence, frames, sequence.size
        # not of a method: a stretch that holds itself would hold its fields long after the next one has begun
        self.flow = lru_cache(FIELDS_HELD)(partial(flow_of, sequence, frames))

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, t: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame t, RGB."""
        return self.sequence.image(self.frames[t])

    def moves(self, t: int) -> bool:
        """Whether anything moves in frame t."""
        flow, valid = self.flow(t)
        return bool(valid.any()) and float(np.percentile(magnitude(flow, valid)[valid], 98)) >= AT_REST

    def speed(self, t: int) -> Soft:
        """How fast each pixel moves against the background (`moving.flow_soft`); 0 where nothing moves."""
        flow, valid = self.flow(t)
        return flow_soft(flow, valid) if self.moves(t) else np.zeros(valid.shape, np.float32)

    def onward(self, t: int) -> Float64[np.ndarray, "3 3"] | None:
        """The homography of frame t to the next; None where it is not known, or neighbors are farther apart."""
        return None if self.sequence.gap != 1 else self.sequence.motion(self.frames[t], self.frames[t] + 1)


def stretched(soft: np.ndarray, percentile: float = 99) -> Float32[np.ndarray, "..."]:
    """A non-negative map in shares of its percentile, clipped to [0, 1]."""
    largest = float(np.percentile(soft, percentile)) or float(soft.max()) or 1.0
    return np.minimum(soft / largest, 1).astype(np.float32)


def blurred(field: np.ndarray, share: float) -> np.ndarray:
    """Gaussian blur by a share of the image's diagonal."""
    return cv2.GaussianBlur(field.astype(np.float32), (0, 0), max(0.5, share * float(np.hypot(*field.shape[:2]))))
