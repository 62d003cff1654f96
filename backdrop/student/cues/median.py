"""Cue median: color difference to the median of stabilized neighbors.

It is the papers' known background B, made for each frame, so that it works with a moving camera.
"""

from __future__ import annotations

import cv2
import numpy as np

from backdrop.student.cues.cue import Cue, CueFrame, scaled

COLOR_FLOOR = 16.0
"""Least threshold of the color difference in gray levels: sensor noise and JPEG stay below."""


def median_cue(frame: CueFrame) -> Cue | None:
    """Color difference to the median of the neighbors.

    The difference counts only as far as no pixel of the background nearby has the frame's color: a misfit of a
    pixel at an edge of the background is no subject.
    """
    if frame.background is None:
        return None
    image = frame.sequence.image(frame.t)
    background, valid = frame.background
    around = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(background, around), cv2.dilate(background, around)
    beyond = np.maximum(cv2.subtract(image, high), cv2.subtract(low, image)).astype(np.float32)
    exact = cv2.absdiff(image, background).astype(np.float32)
    difference = 0.5 * (beyond.sum(axis=2) + exact.sum(axis=2))
    return scaled(cv2.GaussianBlur(difference, (0, 0), 1), valid, COLOR_FLOOR)
