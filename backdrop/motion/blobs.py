"""Connected components: cleaning of masks, and the component that is the subject.

Masks say True for foreground.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from backdrop.io.masks import Mask, Soft, resize_mask

WORKING_DIAGONAL = 490.0
"""Diagonal in pixels of the images that MOG2 and the cleaning see (480p by half): a quarter of the time, and
the errors of chained homographies shrink with the image while subjects stay large enough."""


def otsu(soft: Soft, valid: Bool[np.ndarray, "H W"]) -> float:
    """Otsu's threshold in [0, 1] over the valid pixels; 1 (nothing is foreground) where there are none."""
    if not valid.any():
        return 1.0
    values = np.rint(soft[valid] * 255).astype(np.uint8).reshape(-1, 1)
    return float(cv2.threshold(values, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]) / 255


def clean(mask: Mask) -> Mask:
    """Specks and holes removed, only the largest blob left: median 5 x 5, closing with a disk of 9 x 9, at the
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


SPECK = 0.0005
"""Components smaller than this share of the image do not count."""

LESSER = 0.2
"""Where several subjects are looked for, each holds at least this share of the heaviest one's evidence."""


def subject_component(
    evidence: Soft, weight: Float32[np.ndarray, "H W"], level: float = 0.5, subjects: int = 1
) -> Mask:
    """The connected component of evidence > level that holds most of evidence x weight, holes closed.

    The method looks for one subject; with `subjects` above 1, for the union of up to so many components, each with at
    least `LESSER` of the heaviest one's evidence. Empty where no component is larger than a speck.
    """
    rough = cv2.medianBlur((evidence > level).astype(np.uint8), 5)
    side = 2 * max(1, evidence.shape[0] // 64) + 1
    rough = cv2.morphologyEx(rough, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(rough, connectivity=8)
    if count < 2:
        return np.zeros(evidence.shape, bool)
    mass = np.bincount(labels.ravel(), (evidence * weight).ravel(), minlength=count)
    mass[stats[:, cv2.CC_STAT_AREA] < SPECK * evidence.size] = 0
    mass[0] = 0
    order = np.argsort(-mass, kind="stable")[:subjects]
    heavy = order[mass[order] > (LESSER if subjects > 1 else 0) * mass[order[0]]]
    return np.isin(labels, heavy)


def near_subject(soft: Soft, subjects: int = 1, level: float = 0.5) -> Soft:
    """A soft mask without what is apart from its heaviest component above `level`, or from up to `subjects` of them."""
    component = subject_component(soft, np.ones_like(soft), level, subjects)
    if not component.any():
        return soft
    return soft * cv2.dilate(component.astype(np.uint8), np.ones((9, 9), np.uint8))
