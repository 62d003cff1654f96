"""Measures: J and F as DAVIS defines them, precision, recall, and box AP.

J and F equal the official code, davis2017-evaluation (Pont-Tuset et al., BSD license), to the last
digits. `statistics` differs from it only where the official one overflows (from 257 frames on).
Masks are boolean, True = foreground. Void pixels are excluded everywhere.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from backdrop.io.masks import Box, Mask

BOUNDARY_TOLERANCE = 0.008
"""Share of the image's diagonal within which a boundary pixel counts as matched (DAVIS)."""


class Statistics(NamedTuple):
    """DAVIS's three numbers of a sequence: mean, share of values strictly above 0.5, first minus last quarter."""

    mean: float
    recall: float
    decay: float


def jaccard(prediction: Mask, truth: Mask, void: Mask | None = None) -> float:
    """J: intersection over union; 1 where both are empty."""
    if void is not None:
        prediction, truth = prediction & ~void, truth & ~void
    union = int(np.count_nonzero(prediction | truth))
    return int(np.count_nonzero(prediction & truth)) / union if union else 1.0


def precision_recall(prediction: Mask, truth: Mask, void: Mask | None = None) -> tuple[float, float]:
    """Pixel precision and recall; both 1 where both masks are empty, both 0 where one of them is."""
    if void is not None:
        prediction, truth = prediction & ~void, truth & ~void
    hits, found, wanted = (int(np.count_nonzero(mask)) for mask in (prediction & truth, prediction, truth))
    if not found and not wanted:
        return 1.0, 1.0
    return hits / found if found else 0.0, hits / wanted if wanted else 0.0


def boundary_f(prediction: Mask, truth: Mask, void: Mask | None = None) -> float:
    """F: harmonic mean of `boundary_precision_recall`; 1 where neither mask has a boundary, as in the official code."""
    return harmonic_mean(*boundary_precision_recall(prediction, truth, void))


def harmonic_mean(precision: float, recall: float) -> float:
    """F of a precision and a recall; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_precision_recall(prediction: Mask, truth: Mask, void: Mask | None = None) -> tuple[float, float]:
    """Share of each mask's boundary within ceil(0.008 * diagonal) pixels of the other's: (prediction's, truth's).

    Both are 1 where neither mask has a boundary (each is empty or full), both 0 where one has none. Void
    pixels are background in both masks. Only the part of the image that holds both masks is read,
    with a border of one pixel: elsewhere there is no boundary.
    """
    if void is not None:
        prediction, truth = prediction & ~void, truth & ~void
    radius = int(np.ceil(BOUNDARY_TOLERANCE * np.linalg.norm(truth.shape)))
    part = _extent(prediction | truth)
    found, wanted = _boundary(prediction[part]), _boundary(truth[part])
    n_found, n_wanted = cv2.countNonZero(found), cv2.countNonZero(wanted)
    if n_found == 0 and n_wanted == 0:
        return 1.0, 1.0
    if n_found == 0 or n_wanted == 0:
        return 0.0, 0.0
    disk = _disk(radius)
    precision = cv2.countNonZero(found & cv2.dilate(wanted, disk)) / n_found
    recall = cv2.countNonZero(wanted & cv2.dilate(found, disk)) / n_wanted
    return precision, recall


def _extent(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns of the mask's bounding box and a pixel around it, within the image."""
    x, y, w, h = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if w == 0:
        return slice(0, 1), slice(0, 1)
    return slice(max(0, y - 1), y + h + 1), slice(max(0, x - 1), x + w + 1)


def _boundary(mask: Mask) -> np.ndarray:
    """Boundary pixels as DAVIS's seg2bmap draws them, uint8 0/1.

    A boundary pixel differs from its right, lower or lower right neighbor. The last row is compared to the right only,
    the last column down only, the corner not at all.
    """
    m = np.ascontiguousarray(mask).view(np.uint8)
    edge = np.zeros_like(m)
    here, right, below, across = m[:-1, :-1], m[:-1, 1:], m[1:, :-1], m[1:, 1:]
    edge[:-1, :-1] = (here ^ right) | (here ^ below) | (here ^ across)
    edge[-1, :-1] = m[-1, :-1] ^ m[-1, 1:]
    edge[:-1, -1] = m[:-1, -1] ^ m[1:, -1]
    return edge


@lru_cache(maxsize=8)
def _disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def statistics(values: Sequence[float] | Float[np.ndarray, "N"]) -> Statistics:
    """Mean, recall and decay of a sequence's J or F; NaN for no frames.

    Decay is the mean of the first quarter minus that of the last. Quarters share their border
    frames, as in the official code. That code holds frame numbers in 8 bits, and so is right for
    at most 256 frames.
    """
    values = np.asarray(values, np.float64)
    if values.size == 0:
        return Statistics(np.nan, np.nan, np.nan)
    ends = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64)
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a quarter of nothing but NaN
        return Statistics(
            float(np.nanmean(values)), float(np.nanmean(values > 0.5)), float(np.nanmean(first) - np.nanmean(last))
        )


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes cx, cy, w, h, in [0, 1]; 0 where both are empty."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    shared = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(a[2:]) + np.prod(b[2:])) - shared
    return shared / union if union > 0 else 0.0


def contains_center(box: Box, truth: Box) -> bool:
    """Whether the center of the truth's box lies in the box."""
    return bool((np.abs(np.asarray(truth)[:2] - np.asarray(box)[:2]) <= np.asarray(box)[2:] / 2).all())


def average_precision(
    boxes: Float[np.ndarray, "N 4"],
    confidences: Float[np.ndarray, "N"],
    truth: Float[np.ndarray, "N 4"],
    iou: float = 0.5,
) -> float:
    """COCO's AP (pycocotools) of one detection per frame, ranked by confidence, against one subject per frame.

    Args:
        boxes: cx, cy, w, h, all in one unit. A row with NaN is a frame without a detection.
        confidences: of the detections.
        truth: the subjects' boxes. A row with NaN is a frame without a subject, which is left out.
        iou: the least overlap with which a detection counts.

    Returns:
        AP in [0, 1]; NaN if no frame has a subject.
    """
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):  # the library prints
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        subjects = np.flatnonzero(np.isfinite(truth).all(axis=1))
        if not subjects.size:
            return float("nan")
        detected = [int(t) for t in subjects if np.isfinite(boxes[t]).all()]
        if not detected:
            return 0.0
        reference = COCO()
        reference.dataset = {
            "images": [{"id": int(t)} for t in subjects],
            "categories": [{"id": 1}],
            # ids from 1: the library takes annotation 0 for "no match"
            "annotations": [{"id": int(t) + 1, "iscrowd": 0, **_box_annotation(int(t), truth[t])} for t in subjects],
        }
        reference.createIndex()
        found = reference.loadRes([{"score": float(confidences[t]), **_box_annotation(t, boxes[t])} for t in detected])
        evaluation = COCOeval(reference, found, "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.maxDets = [1]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(np.mean(evaluation.eval["precision"]))


def _box_annotation(t: int, box: Box) -> dict[str, object]:
    cx, cy, w, h = (float(value) for value in box)
    return {"image_id": t, "category_id": 1, "bbox": [cx - w / 2, cy - h / 2, w, h], "area": w * h}
