"""A cue: one kind of evidence of the moving subject, scaled so that its threshold is 0.5; and what cues look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.neighbors import (
    Background,
    Field,
    NeighborView,
    StabilizedSequence,
    Valid,
    median_background,
    views,
)
from backdrop.student.parameters import StudentParams

CUE_MARGIN = 1.15
"""A cue reaches 0.5 this far above Otsu's threshold: cues spill over the subject more than they miss of it."""


class Cue(NamedTuple):
    """A cue of one frame: value in [0, 1], 0.5 at its threshold; valid where there was anything to compare."""

    value: Field
    valid: Valid


@dataclass
class CueFrame:
    """Frame t of a stabilized sequence, as the cues see it. What several cues need is computed once.

    Attributes:
        stored: flow of the stage flow, where there is some.
        found: the frame's cues so far.
    """

    sequence: StabilizedSequence
    t: int
    params: StudentParams
    stored: FlowArchive | None = None
    found: dict[str, Cue] = field(default_factory=dict)

    @cached_property
    def views(self) -> list[NeighborView]:
        """The neighbors laid over the frame."""
        params = self.params
        return views(self.sequence, self.t, params.neighbors, params.spacing, params.parallax)

    @cached_property
    def background(self) -> Background | None:
        """Their median; None with fewer than two of them."""
        return median_background(self.views)


def scaled(raw: Field, valid: Valid, floor: float) -> Cue:
    """A raw measure >= 0 brought to [0, 1] so that a little above Otsu's threshold (at least `floor`) it is 0.5.

    The square root is taken before: motion and color differences are so skewed that Otsu's rule on them
    finds the fastest limb only.
    """
    root = np.sqrt(np.maximum(raw, 0))
    if not valid.any():
        return Cue(np.zeros_like(raw), valid)
    top = max(float(np.percentile(root[valid], 99.5)), 1e-6)
    bytes_ = np.minimum(root / top * 255, 255).astype(np.uint8)
    level = float(cv2.threshold(bytes_[valid].reshape(-1, 1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0])
    threshold = max((level + 0.5) / 255 * top, float(np.sqrt(floor)))
    ratio = (root / (CUE_MARGIN * threshold)) ** 4
    value = np.where(valid, ratio / (1 + ratio), 0)
    return Cue(value.astype(np.float32), valid)
