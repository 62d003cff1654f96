"""The camera without the subject: homographies refitted on the background alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import UInt8

from backdrop.io.masks import Mask
from backdrop.motion.homography import Homographies, Images, Keypoints, estimate_homography, keypoints
from backdrop.motion.neighbors import KNOWN, MaskOf
from backdrop.motion.parameters import StabilizeParams


def background_keypoints(
    image: UInt8[np.ndarray, "h w 3"], subject: np.ndarray, features: int, region: Mask | None = None
) -> Keypoints:
    """The keypoints that do not lie on the subject or right beside it (soft mask of any size), and in the region."""
    found = keypoints(image, features, region)
    height, width = image.shape[:2]
    margin = 2 * max(1, subject.shape[0] // 48) + 1
    wide = cv2.dilate(np.ascontiguousarray(subject, np.float32), np.ones((margin, margin), np.uint8))
    x = (found.points[:, 0] + 0.5) * subject.shape[1] / width
    y = (found.points[:, 1] + 0.5) * subject.shape[0] / height
    column = np.clip(x.astype(int), 0, subject.shape[1] - 1)
    row = np.clip(y.astype(int), 0, subject.shape[0] - 1)
    keep = wide[row, column] < KNOWN
    return Keypoints(found.points[keep], found.descriptors[keep])


def refit(
    frames: Images,
    homographies: Mapping[str, np.ndarray],
    masks: MaskOf,
    params: StabilizeParams,
    span: range | None = None,
    *,
    region: Mask | None = None,
) -> Homographies:
    """The homographies anew, from the keypoints of the background alone.

    A pair that fails (too little background) keeps the homography it had. Arrays as `stabilize_sequence` returns them.

    Args:
        span: the frames to do; None: all. The others keep what they had.
        region: of interest, at the frames' size; keypoints lie in it. None: anywhere.
    """
    result = {key: np.array(value) for key, value in homographies.items()}
    neighbor = result["neighbor"]
    live: OrderedDict[int, tuple[Keypoints, tuple[int, int]]] = OrderedDict()

    def background(t: int) -> tuple[Keypoints, tuple[int, int]]:
        if t not in live:
            image = frames.image(t)
            found = background_keypoints(image, masks(t), params.features, region)
            live[t] = (found, (image.shape[1], image.shape[0]))
            if len(live) > 2 * params.gap + 2:
                live.popitem(last=False)
        return live[t]

    for t in range(len(frames)) if span is None else span:
        if neighbor[t] == t:
            continue
        target, size = background(t)
        source, _ = background(int(neighbor[t]))
        pair = estimate_homography(source, target, size, params)
        if pair.valid:
            result["H"][t], result["valid"][t], result["reason"][t] = pair.H, True, ""
            result["matches"][t], result["inliers"][t] = pair.matches, pair.inliers
    return result
