"""OpenCV's MOG2 background subtraction on stabilized frames.

`Mog2` is a cheap, label-free baseline, the bar that a network has to clear, and one of the student's cues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from backdrop.io.masks import Mask, resize_mask, within_region
from backdrop.motion.blobs import clean, working_size
from backdrop.motion.homography import Images, chain, resampling

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


View = tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]
"""A frame laid over another: RGB, and True where it has pixels that count as background."""


def mixture_foreground(
    image: UInt8[np.ndarray, "H W 3"],
    views: Sequence[View],
    mosaic: UInt8[np.ndarray, "H W 3"],
    variances: Sequence[float] = (MOG2_VARIANCE,),
) -> Bool[np.ndarray, "N H W"]:
    """True where the mixture of Gaussians that is learned from `views` finds foreground in `image`; shadows are False.

    Args:
        image: RGB, the frame that is judged.
        views: what is laid over it, in the order in which the mixture learns them, `PASSES` times.
        mosaic: RGB, what stands in where the first views have no pixel. It is painted over: where a view has no
            pixel, the last one that had one stands in.
        variances: thresholds on the squared Mahalanobis distance, N. What is learned does not depend on them.
    """
    mixture = cv2.createBackgroundSubtractorMOG2(PASSES * len(views), MOG2_VARIANCE, detectShadows=True)
    mixture.setBackgroundRatio(BACKGROUND_RATIO)
    for view, inside in list(views) * PASSES:
        cv2.copyTo(view, inside.view(np.uint8), mosaic)
        mixture.apply(mosaic)
    found = []
    for variance in variances:
        mixture.setVarThreshold(variance)
        # Rate 0: the mixture judges the frame and does not learn it. 255 is foreground, 127 a shadow.
        found.append(mixture.apply(image, learningRate=0) == 255)
    return np.stack(found)


class Mog2:
    """OpenCV's MOG2 on stabilized frames: for each frame t its neighbors in time are laid over it.

    A mixture cannot follow a moving camera, so each frame gets a mixture of its own, learned from
    a window of up to 2 x `VIEWS` frames around it, warped onto it. Where a warped view has no
    pixel, the last one seen there stands in, as in a mosaic; where no view has any, the frame
    itself (there MOG2 knows nothing, and says background). Shadows that MOG2 finds count as
    background. Deterministic; memory holds one window of reduced frames.

    Args:
        frames: the sequence.
        homographies: as in `backdrop.motion.homography`.
        region: of interest, at the frames' size: foreground is found in it alone. None: anywhere.
    """

    def __init__(self, frames: Images, homographies: Mapping[str, np.ndarray], region: Mask | None = None) -> None:
        self.frames = frames
        self.homographies = homographies
        self.region = region
        height, width = frames.image(0).shape[:2]
        self.size = (width, height)
        self.small = working_size(self.size)
        gap = max(1, int(abs(homographies["neighbor"][0]))) if len(frames) > 1 else 1
        self.stride = gap * max(1, round(SPACING / gap))
        self._reduced: dict[int, np.ndarray] = {}

    def mask(self, t: int) -> Mask:
        """Foreground of frame t, cleaned, at the stored frame's size."""
        return self.masks(t, (MOG2_VARIANCE,))[0]

    def masks(self, t: int, variances: Sequence[float]) -> list[Mask]:
        """`mask` at each of the thresholds on the squared Mahalanobis distance."""
        views = self._views(t)
        if not views:
            return [np.zeros((self.size[1], self.size[0]), bool) for _ in variances]
        current = self._frame(t)
        mosaic = current.copy()
        for image, inside in reversed(views):
            cv2.copyTo(image, inside.view(np.uint8), mosaic)
        found = mixture_foreground(current, views, mosaic, variances)
        return [clean(within_region(resize_mask(foreground, self.size), self.region)) for foreground in found]

    def _views(self, t: int) -> list[View]:
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
