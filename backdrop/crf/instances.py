"""Several subjects in a frame: a mask's connected parts, the boxes of D's cells, and a division by these alone.

Boxes come from the cells in the order of their probabilities; overlapping ones are suppressed. `divide` leaves a part
that holds at most one box one subject. One that holds several is divided: each pixel goes to the nearest box. What
ships asks it for the parts alone: where subjects touch, the instance CRF divides them (`backdrop.crf.instance`).
`Linker` numbers subjects by the overlap of masks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.optimize import linear_sum_assignment

from backdrop.io.masks import Box, Mask, Soft, box_from_mask, box_pixels
from backdrop.measures import box_iou, jaccard
from backdrop.motion.blobs import LESSER, SPECK
from backdrop.networks.predictor import Prediction, presence

OVERLAP = 0.2
"""Of two boxes whose intersection over union is above this, the less probable one is dropped."""

LEAST_P = 0.02
"""Cells less probable than this start no subject. Components of the mask still do."""

LINKED = 0.1
"""Masks of neighboring frames whose J is at least this belong to one subject."""

TRACK_PATIENCE = 10
"""For so many frames a subject that is not seen keeps its number."""

Labels = UInt8[np.ndarray, "H W"]
"""0 = background, 1, 2, ... the subjects, the largest first."""


class Linker:
    """Keeps a subject's number through the frames of a video, by the overlap of masks alone.

    A number is remembered for `TRACK_PATIENCE` frames in which the subject is not seen. Numbers fit 8 bits: after 255
    the number that was not seen for longest is used again.
    """

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, Mask]] = {}  # number -> frame of its last mask, which is dropped with patience
        self.last: dict[int, int] = {}  # number -> frame in which it was last seen
        self.frame = 0

    def numbers(self, masks: Sequence[Mask], known: Sequence[int] | None = None) -> list[int]:
        """The numbers of the next frame's subjects.

        Args:
            masks: (H, W) bool each, without common pixels. known: their numbers, where an earlier run gave them.
        """
        self.frame += 1
        self.seen = {n: (t, mask) for n, (t, mask) in self.seen.items() if self.frame - t <= TRACK_PATIENCE}
        found = list(known) if known is not None else self._matched(masks)
        for number, mask in zip(found, masks, strict=True):
            self.seen[number], self.last[number] = (self.frame, mask), self.frame
        return found

    def _matched(self, masks: Sequence[Mask]) -> list[int]:
        numbers = list(self.seen)
        shared = np.array([[_overlap(mask, self.seen[n][1]) for n in numbers] for mask in masks])
        found = [0] * len(masks)
        if shared.size:
            for i, j in zip(*linear_sum_assignment(-shared), strict=True):
                found[i] = numbers[j] if shared[i, j] >= LINKED else 0
        for i, number in enumerate(found):
            if not number:
                found[i] = self._free(found)
        return found

    def _free(self, taken: Sequence[int]) -> int:
        """A number that no subject has; where all 255 are used, the one not seen for longest."""
        fresh = max([*self.last, *taken, 0]) + 1
        if fresh <= 255:
            return fresh
        return min((n for n in self.last if n not in taken), key=lambda n: self.last[n])


def _overlap(mask: np.ndarray, before: np.ndarray) -> float:
    """J; 0 where the video has changed its size."""
    return jaccard(mask, before) if mask.shape == before.shape else 0.0


class Instance(NamedTuple):
    """A subject of a frame.

    mask: (H, W) bool. box: cx, cy, w, h of the mask's extent, in [-1, 1] image coordinates. confidence: in [0, 1], how
    sure the soft mask is of it (`predictor.presence` of its part).
    """

    mask: Mask
    box: Box
    confidence: float


def find_instances(labels: Labels, soft: Soft) -> dict[int, Instance]:
    """Number -> subject of a frame whose mask is divided, in the order of the numbers.

    Args:
        labels: 0 or the subject's number (`instance.both_ways.told_apart`). soft: the frame's soft mask.
    """
    found = {}
    for number in (int(n) for n in np.unique(labels) if n):
        part = labels == number
        box = box_from_mask(part)
        assert box is not None  # the number is there
        found[number] = Instance(part, box, presence(np.where(part, soft, 0)))
    return found


def chosen_boxes(prediction: Prediction, mask: Mask, count: int) -> Float[np.ndarray, "K 4"]:
    """Boxes of the likeliest cells, at most `count`. No two overlap much, and each holds some of the mask."""
    height, width = mask.shape
    p, boxes = prediction.p.ravel(), prediction.boxes.reshape(-1, 4)
    chosen: list[np.ndarray] = []
    for cell in np.argsort(-p, kind="stable"):
        if len(chosen) == count or p[cell] < LEAST_P:
            break
        left, top, right, bottom = _inside(boxes[cell], (width, height))
        if mask[top:bottom, left:right].any() and all(box_iou(boxes[cell], other) <= OVERLAP for other in chosen):
            chosen.append(boxes[cell])
    return np.array(chosen).reshape(-1, 4)


def _inside(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge) for edge in box_pixels(box, size))
    return max(left, 0), max(top, 0), min(max(right, 0), size[0]), min(max(bottom, 0), size[1])


def divide(mask: Mask, boxes: Float[np.ndarray, "K 4"], count: int) -> Labels:
    """A mask's pixels divided among at most `count` subjects.

    Components smaller than `LESSER` of the largest one, or than a speck, belong to the nearest subject.
    """
    number, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if number < 2:
        return np.zeros(mask.shape, np.uint8)
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0
    large = [c for c in np.argsort(-areas, kind="stable") if areas[c] >= max(LESSER * areas.max(), SPECK * mask.size)]
    large = large[:count] or [int(areas.argmax())]
    parts = np.zeros(mask.shape, np.int32)
    used = 0
    for component in large:
        here = components == component
        within = _held(here, boxes)[: count - used - (len(large) - large.index(component) - 1)]
        parts[here] = used + 1 + (_nearest(here, boxes[within]) if len(within) > 1 else 0)
        used += max(1, len(within))
    rest = mask & (parts == 0)
    if rest.any():  # of the nearest subject, by the distance to its pixels
        _, index = cv2.distanceTransformWithLabels(
            (parts == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        owner = np.zeros(int(index.max()) + 1, np.int32)
        owner[index[parts > 0]] = parts[parts > 0]
        parts[rest] = owner[index[rest]]
    return _ordered(parts)


def _held(component: Mask, boxes: Float[np.ndarray, "K 4"]) -> list[int]:
    """The boxes whose center lies on the component, or, where it is concave, near it: in its extent."""
    extent = box_from_mask(component)
    assert extent is not None
    return [k for k, box in enumerate(boxes) if (np.abs(box[:2] - extent[:2]) <= extent[2:] / 2).all()]


def _nearest(component: Mask, boxes: Float[np.ndarray, "K 4"]) -> np.ndarray:
    """For each pixel of the component the box whose center is nearest, in units of the boxes' sides."""
    height, width = component.shape
    y, x = np.nonzero(component)
    points = np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], axis=1)
    distance = np.abs(points[:, None] - boxes[None, :, :2]) / boxes[None, :, 2:]
    return np.hypot(distance[..., 0], distance[..., 1]).argmin(axis=1)


def _ordered(parts: np.ndarray) -> Labels:
    """Numbers 1, 2, ... without gaps, the largest first."""
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    order = np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)]
    number = np.zeros(len(areas), np.uint8)
    number[order] = np.arange(1, len(order) + 1)
    return number[parts]
