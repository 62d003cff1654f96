"""Cue mog2: OpenCV's mixture model over the stabilized neighbors."""

from __future__ import annotations

import cv2
import numpy as np

from backdrop.motion.mog2 import mixture_foreground
from backdrop.student.cues.cue import Cue, CueFrame


def mog2_cue(frame: CueFrame) -> Cue | None:
    """OpenCV's MOG2 on the neighbors: 1 where none of them has the frame's color, shadows 0.

    Where a view shows no background, the last one that did stands in, as in a mosaic.
    """
    if frame.background is None:
        return None
    image = frame.sequence.image(frame.t)
    background, valid = frame.background
    shown = [(view.image, view.background) for view in frame.views]
    (foreground,) = mixture_foreground(image, shown, np.where(valid[..., None], background, image))
    clean = cv2.medianBlur(foreground.astype(np.uint8), 5).astype(np.float32)
    return Cue(np.where(valid, cv2.GaussianBlur(clean, (0, 0), 1), 0).astype(np.float32), valid)
