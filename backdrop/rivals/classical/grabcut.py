"""Rival grabcut: OpenCV's GrabCut from a box (Rother, Kolmogorov and Blake, SIGGRAPH 2004).

The box is D's where a finished run has one (the embedded footage), enlarged by a tenth; elsewhere it is the box of what
moves, by Otsu's rule on the speed. Each frame by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

from backdrop.io.masks import Box, Mask, Soft, box_pixels
from backdrop.rivals.material import Material

MARGIN = 1.1

CUT_ROUNDS = 5

LEAST = 20
"""Pixels of each kind that color models need."""


def grabcut(material: Material) -> Iterator[Soft]:
    """Masks of 0 and 1."""
    for t in range(len(material)):
        edges = box_edges(material.box(t), material.size)
        image = material.image(t)
        found = np.zeros(image.shape[:2], bool) if edges is None else cut_box(image, edges)
        yield found.astype(np.float32)


def box_edges(box: Box | None, size: tuple[int, int], margin: float = MARGIN) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom edge in pixels, within the image, of a box enlarged by the factor `margin`."""
    if box is None or not np.isfinite(box).all():
        return None
    larger = np.array([box[0], box[1], box[2] * margin, box[3] * margin])
    left, top, right, bottom = box_pixels(larger, size)
    return max(0, round(left)), max(0, round(top)), min(size[0], round(right)), min(size[1], round(bottom))


def cut_box(image: UInt8[np.ndarray, "H W 3"], edges: tuple[int, int, int, int]) -> Mask:
    """GrabCut from a box, pixels (left, top, right, bottom): outside is background, inside is to be found."""
    left, top, right, bottom = edges
    labels = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_FGD
    inside = labels == cv2.GC_PR_FGD
    if min(np.count_nonzero(inside), np.count_nonzero(~inside)) < LEAST:
        return inside
    cv2.setRNGSeed(0)  # its k-means draws
    try:
        cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), CUT_ROUNDS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    except cv2.error:  # one kind of pixels died out
        return np.zeros(labels.shape, bool)
    return labels == cv2.GC_PR_FGD
