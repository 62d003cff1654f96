"""A cue: one kind of evidence of the moving subject, scaled so that 0.5 is its own threshold."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from backdrop.motion.neighbors import Field, Valid

CUE_MARGIN = 1.15
"""A cue reaches 0.5 this far above Otsu's threshold: cues spill over the subject more than they miss of it."""


class Cue(NamedTuple):
    """A cue of one frame: value in [0, 1], 0.5 at its own threshold; valid where there was anything to compare."""

    value: Field
    valid: Valid


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
