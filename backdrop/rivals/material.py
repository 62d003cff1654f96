"""What a rival gets: the frames of one sequence at the working size, and of their motion what it asks for.

Convention: pixels of the working size, x to the right, y down. Soft masks are float32 in [0, 1], 1 = foreground.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from backdrop.flow.dis import dense_inverse_search
from backdrop.io.masks import Box, Soft, box_from_mask
from backdrop.motion.blobs import otsu
from backdrop.motion.homography import Images, neighbor_of, warp
from backdrop.motion.mog2 import Mog2
from backdrop.motion.moving import flow_mask, flow_soft
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.params import Params
from backdrop.stabilize.stage import stabilize_sequence

FIELDS_HELD = 64
"""Flow fields that are held at a time."""


class ResidualFlow(NamedTuple):
    """Flow of a frame to its neighbor, stabilized: pixels, zero where the background is; and where it is known."""

    flow: Float32[np.ndarray, "H W 2"]
    valid: Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class RivalSettings:
    """What rivals need besides frames.

    Attributes:
        params: of the project. Stabilization, working size (`student.size`), CRF and seed are taken from there.
        scratch: folder for checkpoints and intermediate files of this sequence.
        model: path of the instance model; None: none is given.
        boxes: frame -> the detector's box of a finished run; None: there is none.
    """

    params: Params
    scratch: Path
    model: str | None = None
    boxes: Callable[[int], Box] | None = None


class Material:
    """One sequence. Motion is computed when it is first asked for, so that a rival pays for what it uses.

    Args:
        frames: the stored frames.
    """

    def __init__(self, frames: Images, settings: RivalSettings) -> None:
        self.frames, self.settings = frames, settings
        self.size: tuple[int, int] = settings.params.student.size
        self.flow = lru_cache(FIELDS_HELD)(self._flow)

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, t: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame t, RGB, at the working size."""
        return cv2.resize(self.frames.image(t), self.size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]

    @cached_property
    def stabilized(self) -> StabilizedSequence:
        """Frames with the camera's motion, which is found on the stored frames, as in the pipeline."""
        found = stabilize_sequence(self.frames, self.settings.params.stabilize)
        return StabilizedSequence(self.frames, found, self.size)

    def _flow(self, t: int) -> ResidualFlow:
        """DIS flow of frame t to its neighbor laid over it; nothing is known where no homography was found."""
        sequence = self.stabilized
        other = neighbor_of(t, len(self), sequence.gap)
        H = sequence.motion(other, t) if other != t else None
        if H is None:
            shape = (self.size[1], self.size[0])
            return ResidualFlow(np.zeros((*shape, 2), np.float32), np.zeros(shape, bool))
        target = sequence.image(t)
        warped, inside = warp(sequence.image(other), H, self.size)
        return ResidualFlow(dense_inverse_search(target, np.where(inside[..., None], warped, target)), inside)

    def speed(self, t: int) -> Soft:
        """How fast each pixel moves against the background (`motion.moving.flow_soft`)."""
        return flow_soft(*self.flow(t))

    def box(self, t: int) -> Box | None:
        """The detector's box of a finished run; without one, the box of what moves. None: nothing moves."""
        if self.settings.boxes is not None:
            return self.settings.boxes(t)
        speed = self.speed(t)
        return box_from_mask(flow_mask(speed, otsu(speed, self.flow(t).valid)))

    @cached_property
    def mog2(self) -> Mog2:
        """MOG2 on stabilized frames."""
        return Mog2(self.frames, self.stabilized.homographies)


Rival = Callable[[Material], Iterable[Soft]]
"""Frames and motion -> a soft mask a frame, in order."""


def stretched(soft: np.ndarray, percentile: float = 99) -> Float32[np.ndarray, "..."]:
    """A non-negative map in shares of its percentile, clipped to [0, 1]."""
    largest = float(np.percentile(soft, percentile)) or float(soft.max()) or 1.0
    return np.minimum(soft / largest, 1).astype(np.float32)


def blurred(field: np.ndarray, share: float) -> np.ndarray:
    """Gaussian blur by a share of the image's diagonal."""
    return cv2.GaussianBlur(field.astype(np.float32), (0, 0), max(0.5, share * float(np.hypot(*field.shape[:2]))))
