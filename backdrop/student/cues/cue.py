"""A cue: one kind of evidence of the moving subject, scaled so that its threshold is 0.5; and what cues look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from backdrop.io.masks import resize_region
from backdrop.motion.evidence import evidence_size, fastest_motion, flow_evidence
from backdrop.motion.neighbors import (
    Background,
    Field,
    NeighborView,
    StabilizedSequence,
    Valid,
    median_background,
    views,
)
from backdrop.networks.motion_network import MotionNetwork
from backdrop.student.parameters import StudentParams

SLOW_MOTION = 1.0
"""Pixels between a frame and its far neighbors that the fastest 2 % of a frame should move at least."""

LONGER = 4
"""Factor on the distances to the neighbors where they move less."""

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
        network: of the cue motion; None: the one that comes with the package.
        regions: of the cues that were computed for the whole sequence: name -> their planes (`cues.regions`).
    """

    sequence: StabilizedSequence
    t: int
    params: StudentParams
    network: MotionNetwork | None = None
    regions: Mapping[str, UInt8[np.ndarray, "N H W"]] = field(default_factory=dict)

    def in_region(self, cue: Cue) -> Cue:
        """The cue, valid within the region of interest alone."""
        region = self.sequence.region
        return cue if region is None else Cue(cue.value * region, cue.valid & region)

    def where(self, valid: Valid) -> Valid:
        """Where of `valid` a cue may take its scale from: within the region of interest."""
        return valid if self.sequence.region is None else valid & self.sequence.region

    @cached_property
    def views(self) -> list[NeighborView]:
        """The neighbors laid over the frame."""
        params = self.params
        return views(self.sequence, self.t, params.neighbors, params.spacing, params.parallax)

    @cached_property
    def evidence_size(self) -> tuple[int, int]:
        """(W, H) at which the evidence of motion is gathered."""
        return evidence_size(self.sequence.size)

    def picture(self, t: int) -> UInt8[np.ndarray, "h w 3"]:
        """Frame t at that size."""
        return cv2.resize(self.sequence.image(t), self.evidence_size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]

    @cached_property
    def flow_evidence(self) -> Float32[np.ndarray, "G C h w"]:
        """See `backdrop.motion.evidence`. Where little moves at the far neighbors, they are taken `LONGER` times as
        far: a slow subject must move by more than the flow's noise."""
        count = len(self.sequence)

        def gray(t: int) -> np.ndarray:
            return cv2.cvtColor(self.picture(t), cv2.COLOR_RGB2GRAY)

        whole = self.sequence.region
        region = None if whole is None else resize_region(whole, self.evidence_size)
        found = flow_evidence(gray, self.t, count, region=region)
        if found[:, 5].any() and fastest_motion(found) < SLOW_MOTION:
            slow = flow_evidence(gray, self.t, count, LONGER, region)
            found = slow if slow[:, 5].any() else found
        return found

    @cached_property
    def background(self) -> Background | None:
        """Their median; None with fewer than two of them."""
        return median_background(self.views)


def color_difference(image: UInt8[np.ndarray, "H W 3"], background: UInt8[np.ndarray, "H W 3"]) -> Field:
    """Difference in gray levels, summed over the channels and smoothed.

    It counts only half as far as a pixel of the background nearby has the image's color: a misfit of a pixel at an
    edge of the background is no subject.
    """
    around = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(background, around), cv2.dilate(background, around)
    beyond = np.maximum(cv2.subtract(image, high), cv2.subtract(low, image))
    both = cv2.add(beyond, cv2.absdiff(image, background), dtype=cv2.CV_16U)
    total = cv2.transform(both, np.ones((1, 3))).astype(np.float32)
    return cv2.GaussianBlur(0.5 * total, (0, 0), 1)


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
