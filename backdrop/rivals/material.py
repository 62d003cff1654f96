"""What a rival gets: the frames of one sequence at the working size, and of their motion what it asks for.

Convention: pixels of the working size, x to the right, y down. Soft masks are float32 in [0, 1], 1 = foreground.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from backdrop.io.masks import Box, Soft, box_from_mask
from backdrop.motion.blobs import otsu
from backdrop.motion.homography import Images
from backdrop.motion.mog2 import Mog2
from backdrop.motion.moving import flow_mask, flow_soft
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.motion.regions.stretch import ResidualFlow, Stretch
from backdrop.params import Params
from backdrop.stabilize.stage import stabilize_sequence


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

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, t: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame t, RGB, at the working size."""
        return cv2.resize(self.frames.image(t), self.size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]

    def enlarged(self, soft: Float32[np.ndarray, "h w"]) -> Soft:
        """A soft mask of any size at the working size."""
        return cv2.resize(soft, self.size, interpolation=cv2.INTER_LINEAR).clip(0, 1)  # type: ignore[return-value]

    @cached_property
    def stabilized(self) -> StabilizedSequence:
        """Frames with the camera's motion, which is found on the stored frames, as in the pipeline."""
        found = stabilize_sequence(self.frames, self.settings.params.stabilize)
        return StabilizedSequence(self.frames, found, self.size)

    @cached_property
    def stretch(self) -> Stretch:
        """All frames, with the flow between them."""
        return Stretch(self.stabilized, range(len(self)))

    def flow(self, t: int) -> ResidualFlow:
        """Stabilized flow of frame t to its neighbor."""
        return self.stretch.flow(t)

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
