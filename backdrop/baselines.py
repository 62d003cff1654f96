"""Two cheap, label-free baselines, the bar that a network has to clear: thresholded flow, and MOG2.

Both work on what the pipeline has anyway, stabilized flow and homographies, and both end in the
same cleaning: the method looks for one subject, so its rivals may do so, too. A threshold is
chosen on validation sequences where there are any with ground truth; else by Otsu's rule, in each
frame by itself. Masks say True for foreground and have the stored frames' size.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from backdrop.flow import magnitude
from backdrop.homography import Images, chain, resampling
from backdrop.masks import Mask, Soft, resize_mask

WORKING_DIAGONAL = 490.0
"""Diagonal in pixels of the images that MOG2 and the cleaning see (480p by half): a quarter of the time, and
the errors of chained homographies shrink with the image while subjects stay large enough."""
SPACING = 4
"""Frames between two views of MOG2's window: a slow subject must uncover what is behind it."""
VIEWS = 8
"""Views before and after the frame, at most."""
PASSES = 2
"""How often MOG2 sees the window: in one pass its first views weigh most."""
BACKGROUND_RATIO = 0.8
"""Share of the observations that is background. OpenCV's 0.9 suits long videos: in so few views a slow subject
that overlaps itself twice would become background. This value, `SPACING` and `VIEWS` served seven sequences of DAVIS
best on average; that they saw ground truth favors this baseline, as is right for one's rivals."""
MOG2_VARIANCE = 16.0
"""OpenCV's default threshold on the squared Mahalanobis distance."""


# Flow -------------------------------------------------------------------------------------------------


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


def otsu(soft: Soft, valid: Bool[np.ndarray, "H W"]) -> float:
    """Otsu's threshold in [0, 1] over the valid pixels; 1 (nothing is foreground) where there are none."""
    if not valid.any():
        return 1.0
    values = np.rint(soft[valid] * 255).astype(np.uint8).reshape(-1, 1)
    return float(cv2.threshold(values, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]) / 255


def flow_mask(soft: Soft, threshold: float) -> Mask:
    """Foreground where `flow_soft` is above the threshold, cleaned."""
    return clean(soft > threshold)


def clean(mask: Mask) -> Mask:
    """Specks and holes removed, the largest blob kept: median 5 x 5, closing with a disk of 9 x 9, at the
    working resolution, then the component of most pixels."""
    height, width = mask.shape
    small = working_size((width, height))
    rough = resize_mask(mask, small).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    blobs = cv2.morphologyEx(cv2.medianBlur(rough, 5), cv2.MORPH_CLOSE, disk)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(blobs, connectivity=8)
    if count < 2:
        return np.zeros((height, width), bool)
    largest = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return resize_mask(largest, (width, height))


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) with a diagonal of at most `WORKING_DIAGONAL` pixels."""
    factor = min(1.0, WORKING_DIAGONAL / float(np.hypot(*size)))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


# MOG2 -------------------------------------------------------------------------------------------------


class Mog2:
    """OpenCV's MOG2 on stabilized frames: for each frame t its neighbors in time are laid over it.

    A mixture cannot follow a moving camera, so each frame gets a mixture of its own, learned from
    a window of up to 2 x `VIEWS` frames around it, warped onto it. Where a warped view has no
    pixel, the last one seen there stands in, as in a mosaic; where no view has any, the frame
    itself (there MOG2 knows nothing, and says background). Shadows that MOG2 finds count as
    background. Deterministic; memory holds one window of reduced frames.

    Args:
        frames: the sequence.
        homographies: as in `backdrop.homography`.
    """

    def __init__(self, frames: Images, homographies: Mapping[str, np.ndarray]) -> None:
        self.frames = frames
        self.homographies = homographies
        height, width = frames.image(0).shape[:2]
        self.size = (width, height)
        self.small = working_size(self.size)
        gap = max(1, int(abs(homographies["neighbor"][0]))) if len(frames) > 1 else 1
        self.stride = gap * max(1, round(SPACING / gap))
        self._reduced: dict[int, np.ndarray] = {}

    def mask(self, t: int) -> Mask:
        """Foreground of frame t, cleaned, at the stored frame's size."""
        views = self._views(t)
        if not views:
            return np.zeros((self.size[1], self.size[0]), bool)
        current = self._frame(t)
        mosaic = current.copy()
        for image, inside in reversed(views):
            mosaic[inside] = image[inside]
        mixture = cv2.createBackgroundSubtractorMOG2(PASSES * len(views), MOG2_VARIANCE, detectShadows=True)
        mixture.setBackgroundRatio(BACKGROUND_RATIO)
        for image, inside in views * PASSES:
            mosaic[inside] = image[inside]
            mixture.apply(mosaic)
        found = mixture.apply(current, learningRate=0)
        return clean(resize_mask(found == 255, self.size))

    def _views(self, t: int) -> list[tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]]:
        """The window's frames laid over frame t, with the pixels they cover, in the order of time."""
        reach = self.stride * VIEWS
        window = range(t - reach, t + reach + 1, self.stride)
        for old in [u for u in self._reduced if u < t - reach]:
            del self._reduced[old]
        scale = resampling(self.size, self.small)
        views = []
        for u in window:
            if u == t or not 0 <= u < len(self.frames):
                continue
            H = chain(self.homographies, u, t)
            if H is None:
                continue
            H = scale @ H @ np.linalg.inv(scale)
            image = cv2.warpPerspective(self._frame(u), H, self.small)
            inside = cv2.warpPerspective(np.full(image.shape[:2], 255, np.uint8), H, self.small)
            views.append((image, inside == 255))
        return views

    def _frame(self, t: int) -> UInt8[np.ndarray, "h w 3"]:
        if t not in self._reduced:
            self._reduced[t] = cv2.resize(self.frames.image(t), self.small, interpolation=cv2.INTER_AREA)
        return self._reduced[t]
