"""What moves: the speed of stabilized flow as a soft mask, and its thresholded mask.

Masks say True for foreground.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from backdrop.io.masks import Mask, Soft
from backdrop.motion.blobs import clean
from backdrop.motion.flow_field import magnitude


def flow_soft(flow: Float32[np.ndarray, "H W 2"], valid: Bool[np.ndarray, "H W"]) -> Soft:
    """Speed against the background, in shares of the frame's 95th percentile, clipped to [0, 1].

    Clipping there keeps the few fastest pixels, a limb, from being all that Otsu's rule finds.

    Args:
        flow: pixels, of the stabilized pair (zero where the background is).
        valid: where it is known. Elsewhere, and within 1 % of the diagonal of elsewhere, the result
            is 0: at the border of the warped view flow models see motion that is not.
    """
    margin = round(0.01 * float(np.hypot(*valid.shape)))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    known = cv2.erode(valid.view(np.uint8), disk) > 0  # the image's own border does not erode
    speed = magnitude(flow, known)
    largest = float(np.percentile(speed[known], 95)) if known.any() else 0.0
    if largest <= 1e-3:  # less than 5 % moves: a small subject, or none
        largest = float(speed.max())
    if largest <= 1e-3:
        return np.zeros(valid.shape, np.float32)
    return np.minimum(speed / np.float32(largest), 1)


def flow_mask(soft: Soft, threshold: float) -> Mask:
    """Foreground where `flow_soft` is above the threshold, cleaned."""
    return clean(soft > threshold)
