"""Detections without labels, from video: where subjects stood apart tells which is which where they touch.

Each connected part of a mask is a detection. What is known of a subject is carried along: its mask by optical flow, its
colors, its motion. Where one part holds several known subjects, or one that was hidden may come out, each is a
detection of its own, and the instance CRF divides the part among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8

from backdrop.crf.instance.energy import InstanceWeights
from backdrop.crf.instance.labels import DIVIDED_PIXELS, InstanceDetections, instance_labels
from backdrop.crf.instance.shipped import load_instance_crf
from backdrop.crf.instances import LINKED, TRACK_PATIENCE, Labels, divide
from backdrop.io.masks import Box, Mask, Soft, box_from_mask, box_pixels, resize_mask, within
from backdrop.measures import box_iou
from backdrop.motion.flow_field import dense_inverse_search

CARRIED = 0.3
"""A part of the mask holds a known subject if more than this share of what flow has carried of it lies there."""

LEAST_SHOWN = 0.2
"""A subject is hidden where less than this share of it is seen: smaller pieces are mostly somebody else's."""

FIRM = 3
"""In so many frames a subject has stood apart before it counts where subjects touch: a mask may break by chance."""

COLOR_BINS = 12
"""Of the histogram of colors, per channel."""

LEARNED_LOOK = 0.2
"""Share of a frame in the colors of a subject that stands apart."""

SMOOTHED = 0.5
"""Share of a frame in the motion of a subject: the median of the flow where it is."""

TOLD = 0.2
"""Where less than this share of a subject is seen apart from others, its flow is not asked: it goes on as before."""

FLOW_BLUR = 9
"""Pixels (odd) of the square in which flow mixes what lies beside one another."""

WIDER = 1.25
"""Colors tell of a subject in its box, so much wider and higher: elsewhere, somebody may be clothed alike."""

SAME = 0.3
"""Boxes of a larger intersection over union are of one subject."""

MOST_NUMBERS = 255


@dataclass
class Known:
    """A subject.

    map: (h, w) in [0, 1], where it was in the last frame. colors: its histogram, sum 1.
    box: where it should be now, as large as it was when it last stood apart. area: its share of the image then.
    motion: of its center, per frame. unseen: frames since it was seen. touching: frames since it stood apart.
    times: frames in which it stood apart.
    """

    map: Float32[np.ndarray, "h w"]
    colors: Float[np.ndarray, "n"]
    box: Box
    area: float
    motion: Float[np.ndarray, "2"] = field(default_factory=lambda: np.zeros(2))
    unseen: int = 0
    touching: int = 0
    times: int = 0


class FrameToTell(NamedTuple):
    """A frame whose subjects are to be told apart.

    image: (H, W, 3) uint8 RGB. soft: (H, W) in [0, 1]. mask: (H, W) bool, the pixels of all subjects.
    boxes: detections of the frame itself, if there are any (`instances.chosen_boxes`).
    """

    image: UInt8[np.ndarray, "H W 3"]
    soft: Soft
    mask: Mask
    boxes: Float[np.ndarray, "K 4"]


class MaskPart(NamedTuple):
    """A connected part of a mask, (H, W) bool, with the numbers and the detections that it may hold."""

    mask: Mask
    numbers: list[int]
    found: InstanceDetections


class Divided(NamedTuple):
    """A frame. labels: (H, W) uint8, 0 or the subject's number. doubt: the most frames since a subject stood apart."""

    labels: Labels
    doubt: int


class SubjectTracker:
    """Divides the masks of the frames of a video, in their order.

    Args:
        count: subjects at most. weights: None: what ships, with its templates. templates: None: no shape term.
    """

    def __init__(
        self,
        count: int,
        weights: InstanceWeights | None = None,
        templates: Float[np.ndarray, "T S S"] | None = None,
    ) -> None:
        self.count = count
        self.weights, self.templates = load_instance_crf() if weights is None else (weights, templates)
        self.known: dict[int, Known] = {}
        self.before: UInt8[np.ndarray, "h w 3"] | None = None
        self.latest = 0

    def copy(self) -> SubjectTracker:
        """Another one that has seen the same."""
        other = self.fresh()
        other.known = {number: replace(one) for number, one in self.known.items()}  # arrays are never written to
        other.before, other.latest = self.before, self.latest
        return other

    def fresh(self) -> SubjectTracker:
        """Another one that has seen nothing."""
        return SubjectTracker(self.count, self.weights, self.templates)

    def divide_next(self, frame: FrameToTell) -> Divided:
        """The next frame's mask, divided. Every pixel of the mask belongs to a subject."""
        labels = np.zeros(frame.mask.shape, np.uint8)
        for part in self.parts_of_next(frame):
            seen = frame.image, frame.soft, part.mask, part.found
            which = instance_labels(*seen, weights=self.weights, templates=self.templates)
            there = self._seen({n: which == k for k, n in enumerate(part.numbers, 1)})
            labels[part.mask] = max(there, key=lambda n: int(np.count_nonzero(there[n])))
            for number, own in there.items():
                labels[own] = number
        self._remember(labels)
        numbers = [int(n) for n in np.unique(labels) if n]
        return Divided(labels, max((self.known[n].touching for n in numbers), default=0))

    def follow(self, image: UInt8[np.ndarray, "H W 3"], labels: Labels) -> None:
        """See the next frame whose labels are known: what comes is as if they had been found here."""
        self._carry(image)
        self._remember(labels)

    def parts_of_next(self, frame: FrameToTell) -> list[MaskPart]:
        """The connected parts of the next frame's mask, each with what it may hold; new subjects have new numbers."""
        small = self._carry(frame.image)
        masks = self._connected(frame.mask)
        held = self._held([resize_mask(one, (small.shape[1], small.shape[0])) for one in masks])
        taken, found = [n for row in held for n in row], []
        for here, own in zip(masks, held, strict=True):
            part = self._part(here, own, taken, small, frame.boxes)
            taken += part.numbers
            found.append(part)
        return found

    def _connected(self, mask: Mask) -> list[Mask]:
        labels = divide(mask, np.zeros((0, 4)), self.count)
        return [labels == k for k in range(1, int(labels.max(initial=0)) + 1)]

    def _carry(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Move what is known to the next frame, which is returned as small as it is computed."""
        size = within((image.shape[1], image.shape[0]), DIVIDED_PIXELS)
        small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
        if self.before is not None and self.before.shape != small.shape:
            self.known = {}
        if self.before is not None and self.known:
            flow = dense_inverse_search(small, self.before)  # leads back to the frame before
            y, x = np.mgrid[0 : small.shape[0], 0 : small.shape[1]].astype(np.float32)
            for one in self.known.values():
                one.map = cv2.remap(one.map, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)  # type: ignore[assignment]
            self._move(flow)
        for one in self.known.values():
            one.box = one.box + np.concatenate([one.motion, [0, 0]])
            one.unseen, one.touching = one.unseen + 1, one.touching + 1
        self.known = {n: one for n, one in self.known.items() if one.unseen <= TRACK_PATIENCE}
        self.before = small
        return small

    def _move(self, flow: Float32[np.ndarray, "h w 2"]) -> None:
        """Motions, by the flow of each subject's pixels that lie apart from other subjects."""
        shown = {n: (one.map > 0.5).astype(np.uint8) for n, one in self.known.items()}
        near = {n: cv2.dilate(own, np.ones((FLOW_BLUR, FLOW_BLUR), np.uint8)) > 0 for n, own in shown.items()}
        for number, one in self.known.items():
            own = (shown[number] > 0) & ~np.any([near[n] for n in near if n != number], axis=0)
            if np.count_nonzero(own) >= max(TOLD * one.area * own.size, 1):
                moved = -2 * np.median(flow[own], axis=0) / (own.shape[1], own.shape[0])
                one.motion = one.motion + SMOOTHED * (moved - one.motion)

    def _held(self, parts: list[Bool[np.ndarray, "h w"]]) -> list[list[int]]:
        """For each part the subjects of which flow has carried there `CARRIED` or more, and more than to others.

        Where several meet, those count that are firm; if none is, the largest.
        """
        held: list[list[int]] = [[] for _ in parts]
        near = [cv2.dilate(part.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for part in parts]
        for number, one in self.known.items():
            shares = [float(one.map[part].sum()) / max(float(one.map.sum()), 1.0) for part in near]
            if shares and max(shares) > CARRIED:
                held[int(np.argmax(shares))].append(number)
        for row in held:
            if len(row) > 1:
                firm = [n for n in row if self.known[n].times >= FIRM]
                row[:] = firm or [max(row, key=lambda n: float(self.known[n].map.sum()))]
        return held

    def _part(
        self, here: Mask, held: list[int], taken: list[int], small: np.ndarray, boxes: Float[np.ndarray, "K 4"]
    ) -> MaskPart:
        """What a part of the mask may hold: subjects carried there, hidden ones that may come out, the frame's boxes.

        The frame's boxes are heard where they are more than the subjects that are known.
        """
        extent = box_from_mask(here)
        assert extent is not None  # `divide` leaves no number out
        hidden = [
            n
            for n, one in self.known.items()
            if n not in taken and one.unseen > 1 and one.times >= FIRM and _is_inside(one.box, extent)
        ]
        numbers = [*held, *hidden][: self.count]
        found = [self.known[n].box for n in numbers]
        own = [box for box in boxes if _is_inside(box, extent)]
        if len(own) > max(len(numbers), 1):
            for box in own:
                if len(found) < self.count and all(box_iou(box, other) < SAME for other in found):
                    numbers, found = [*numbers, self._next_number([*taken, *numbers])], [*found, box]
        if not numbers:
            numbers = [self._nearest(extent, taken) or self._next_number(taken)]
        if len(numbers) == 1:
            return MaskPart(here, numbers, InstanceDetections(extent[None], np.ones(1)))
        unknown = np.zeros(small.shape[:2], np.float32)
        past = np.stack([self.known[n].map if n in self.known else unknown for n in numbers])
        looks = self._looks(numbers, found, small)
        return MaskPart(here, numbers, InstanceDetections(np.array(found), np.ones(len(found)), past.clip(0, 1), looks))

    def _nearest(self, extent: Box, taken: Sequence[int]) -> int | None:
        """The subject that is expected where a part is; None: nobody."""
        near = {n: box_iou(one.box, extent) for n, one in self.known.items() if n not in taken}
        number = max(near, key=lambda n: near[n], default=None)
        return number if number is not None and near[number] >= LINKED else None

    def _looks(
        self, numbers: Sequence[int], boxes: Sequence[Box], small: UInt8[np.ndarray, "h w 3"]
    ) -> Float32[np.ndarray, "D h w"]:
        """The probability of each by a pixel's color, among those that are known; 0 far from the box."""
        bins = _binned(small)
        rows = [self.known[n].colors[bins] if n in self.known else np.zeros(bins.shape) for n in numbers]
        total = np.maximum(np.sum(rows, axis=0), 1e-12)
        return np.stack([_within_box(row / total, box) for row, box in zip(rows, boxes, strict=True)])

    def _next_number(self, taken: Sequence[int]) -> int:
        """A number that no subject has. Numbers fit 8 bits: after 255 the least that is free is used again."""
        number = max([self.latest, *taken]) + 1
        if number <= MOST_NUMBERS:
            return number
        return next(n for n in range(1, MOST_NUMBERS + 1) if n not in self.known and n not in taken)

    def _seen(self, found: dict[int, Mask]) -> dict[int, Mask]:
        """Those of a part's subjects of which enough is seen; at least the largest."""
        areas = {n: int(np.count_nonzero(own)) for n, own in found.items()}
        most = max(areas.values())
        full = {n: self.known[n].area * own.size if n in self.known else most for n, own in found.items()}
        return {n: own for n, own in found.items() if areas[n] == most or areas[n] >= LEAST_SHOWN * full[n]}

    def _remember(self, labels: Labels) -> None:
        assert self.before is not None  # a frame was read
        bins, size = _binned(self.before), (self.before.shape[1], self.before.shape[0])
        inhabitants = [np.unique(labels[part]) for part in self._connected(labels > 0)]
        apart = [int(row[0]) for row in inhabitants if len(row) == 1]
        for number in (int(n) for n in np.unique(labels) if n):
            own = labels == number
            box, shown = box_from_mask(own), cv2.resize(own.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            assert box is not None
            one = self.known.get(number)
            if one is None:
                one = self.known[number] = Known(shown, _histogram(bins, shown), box, float(shown.mean()))  # type: ignore[arg-type]
            one.map, one.unseen, self.latest = shown, 0, max(self.latest, number)  # type: ignore[assignment]
            if number in apart:
                one.colors = one.colors + LEARNED_LOOK * (_histogram(bins, shown) - one.colors)
                one.box, one.area, one.touching, one.times = box, float(shown.mean()), 0, one.times + 1


def _is_inside(box: Box, extent: Box) -> bool:
    """Whether the center of a box lies in another one."""
    return bool((np.abs(box[:2] - extent[:2]) <= extent[2:] / 2).all())


def _within_box(values: Float[np.ndarray, "h w"], box: Box) -> Float32[np.ndarray, "h w"]:
    """0 beyond the box about the same center that is `WIDER` times as large."""
    wider = np.concatenate([box[:2], WIDER * box[2:]])
    left, top, right, bottom = box_pixels(wider, (values.shape[1], values.shape[0]))
    part = slice(max(0, int(top)), max(0, int(bottom) + 1)), slice(max(0, int(left)), max(0, int(right) + 1))
    found = np.zeros(values.shape, np.float32)
    found[part] = values[part]
    return found


def _binned(small: UInt8[np.ndarray, "h w 3"]) -> Int64[np.ndarray, "h w"]:
    rough = cv2.GaussianBlur(small, (0, 0), 1).astype(np.int64) * COLOR_BINS // 256
    return (rough[..., 0] * COLOR_BINS + rough[..., 1]) * COLOR_BINS + rough[..., 2]


def _histogram(bins: Int64[np.ndarray, "h w"], weight: np.ndarray) -> Float[np.ndarray, "n"]:
    """Of colors, smoothed over neighboring bins, sum 1; no color is impossible."""
    flat = np.bincount(bins.ravel(), weight.ravel().astype(np.float64), minlength=COLOR_BINS**3)
    counts: np.ndarray = flat.reshape(COLOR_BINS, COLOR_BINS, COLOR_BINS)
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        low, high = (np.take(padded, range(k, k + COLOR_BINS), axis) for k in (0, 2))
        counts = counts / 2 + (low + high) / 4
    some = counts.ravel() + 1e-3
    return some / some.sum()
