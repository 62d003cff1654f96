"""Cue mog2: OpenCV's mixture model over the stabilized neighbors."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from backdrop.motion.mog2 import BACKGROUND_RATIO, MOG2_VARIANCE, PASSES
from backdrop.motion.neighbors import Background, NeighborView
from backdrop.student.cues.cue import Cue


def mog2_cue(image: UInt8[np.ndarray, "H W 3"], found: list[NeighborView], behind: Background) -> Cue:
    """OpenCV's MOG2 on the neighbors: 1 where the frame's color is none of theirs, shadows 0.

    Where a view shows no background, the last one that did stands in, as in a mosaic.
    """
    background, valid = behind
    mosaic = np.where(valid[..., None], background, image)
    mixture = cv2.createBackgroundSubtractorMOG2(PASSES * len(found), MOG2_VARIANCE, detectShadows=True)
    mixture.setBackgroundRatio(BACKGROUND_RATIO)
    for view in found * PASSES:
        mosaic[view.background] = view.image[view.background]
        mixture.apply(mosaic)
    foreground = mixture.apply(image, learningRate=0) == 255
    clean = cv2.medianBlur(foreground.astype(np.uint8), 5).astype(np.float32)
    return Cue(np.where(valid, cv2.GaussianBlur(clean, (0, 0), 1), 0).astype(np.float32), valid)
