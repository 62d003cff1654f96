"""What the labels of all files say of each frame together, at the working size; what contradicts itself is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import VOID
from backdrop.student.labels.files import read_files
from backdrop.student.labels.footage import Footage, StoredFrame
from backdrop.student.labels.label import Complaints, Label
from backdrop.student.targets import IGNORED

SHARES = (1, 1)
"""The size in which a file states sides as shares of the image."""

INSIDE = 0.5
"""Share of a box that must lie in the image, and of a mask that must lie in the boxes of its frame."""

ALIKE = 0.8
"""Overlap (J) from which on masks of two files are the same."""

POINT_REACH = 0.02
"""Share of the image's height by which a point may miss a mask or a box."""


class FrameLabel(NamedTuple):
    """What people said of a frame, at the working size.

    mask: (H, W) as pseudo-masks are stored: 0, 254, or `IGNORED`; all 0 where nothing is there. None: no mask.
    boxes: left, top, right, bottom; points, background: x, y, as shares of the image's width and height.
    present: somebody said that the subject is somewhere in it.
    """

    mask: UInt8[np.ndarray, "H W"] | None = None
    boxes: tuple[tuple[float, ...], ...] = ()
    points: tuple[tuple[float, ...], ...] = ()
    background: tuple[tuple[float, ...], ...] = ()
    present: bool = False

    @property
    def tag_alone(self) -> bool:
        """Whether it says no more than that the subject is there."""
        return self.present and self.mask is None and not (self.boxes or self.points or self.background)


class _Said(NamedTuple):
    """A label and its value: a mask at the working size, or sides in shares."""

    label: Label
    value: np.ndarray | tuple[float, ...] | None


FrameLabels = Mapping[str, Mapping[int, FrameLabel]]
"""Sequence -> position of the frame -> what people said of it."""


def read_labels(
    place: Path, frames_dir: Path, archives: Sequence[FrameArchive], size: tuple[int, int]
) -> tuple[FrameLabels, list[str]]:
    """The labels of a folder, and a line for each kind of label that cannot be used.

    Args:
        place: see `labels_place`.
        frames_dir: data/frames. archives: the sequences in it that the student learns from.
        size: (W, H), the working size.
    """
    footage, complaints = Footage(frames_dir, archives), Complaints()
    gathered: dict[StoredFrame, list[_Said]] = {}
    for label in read_files(place, complaints):
        found = footage.find(label)
        if isinstance(found, str):
            complaints.add(label.file, found, label.image if label.number is None else f"{label.image}: {label.number}")
            continue
        try:
            said = _Said(label, _checked_value(label, footage.sizes(found.sequence), size))
        except (BackdropError, ValueError) as fault:
            complaints.add(label.file, " ".join(str(fault).split()), label.image)
            continue
        gathered.setdefault(found, []).append(said)
    names = {archive.path.stem: archive.names for archive in archives}
    labels: dict[str, dict[int, FrameLabel]] = {}
    for frame, told in sorted(gathered.items()):
        why = _contradiction(told, size)
        if why:
            files = " and ".join(dict.fromkeys(one.label.file for one in told))
            complaints.add(
                files, f"contradictory labels ({why})", f"{frame.sequence}, {names[frame.sequence][frame.t]}"
            )
        else:
            labels.setdefault(frame.sequence, {})[frame.t] = _together(told, size)
    return labels, complaints.lines()


def _checked_value(
    label: Label, sizes: set[tuple[int, int]], size: tuple[int, int]
) -> np.ndarray | tuple[float, ...] | None:
    """A label's value at the working size.

    Raises:
        ValueError, BackdropError: it cannot be used, and why.
    """
    if label.kind in ("nothing", "present"):
        return None
    if callable(label.value):
        try:
            mask = label.value()
        except (OverflowError, MemoryError, cv2.error, TypeError) as fault:
            raise ValueError("damaged masks") from fault
        _check_size((mask.shape[1], mask.shape[0]), sizes)
        return _reduced(mask, size)
    assert label.value is not None
    stated = label.size or max(sizes)
    if stated != SHARES:
        _check_size(stated, sizes)
    shares = np.array(label.value, np.float64) / np.tile(stated, len(label.value) // 2)
    if label.kind != "box":
        if shares.min() < 0 or shares.max() > 1:
            raise ValueError("points outside of the image")
        return tuple(shares.tolist())
    left, top, right, bottom = shares
    clipped = np.clip(shares, 0, 1)
    area, shown = (right - left) * (bottom - top), (clipped[2] - clipped[0]) * (clipped[3] - clipped[1])
    if right <= left or bottom <= top:
        raise ValueError("boxes without an area")
    if shown < INSIDE * area:
        raise ValueError("boxes outside of the image")
    return tuple(clipped.tolist())


def _check_size(stated: tuple[int, int], sizes: set[tuple[int, int]]) -> None:
    if stated not in sizes:
        expected = " or ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ValueError(f"for images of {stated[0]}x{stated[1]}, where the frames are {expected}")


def _reduced(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """A mask of 0, 128 (void), 255 at the working size, as pseudo-masks are stored."""
    shares = [
        cv2.resize((mask == value).astype(np.float32), size, interpolation=cv2.INTER_AREA) for value in (255, VOID)
    ]
    drawn = np.where(shares[0] > 0.5, IGNORED - 1, 0)
    return np.where(shares[1] > 0.5, IGNORED, drawn).astype(np.uint8)


def _contradiction(told: Sequence[_Said], size: tuple[int, int]) -> str:
    """Why the labels of a frame cannot all be right; "" if they can."""
    kinds = {one.label.kind for one in told}
    masks = _masks_by_file(told)
    empty = any(not (mask == IGNORED - 1).any() for mask in masks.values())
    subject = bool(kinds & {"box", "point", "present"}) or any((mask == IGNORED - 1).any() for mask in masks.values())
    if subject and ("nothing" in kinds or empty):
        return "nothing is there, and something is"
    drawn = [mask == IGNORED - 1 for mask in masks.values()]
    if any((one & drawn[0]).sum() < ALIKE * (one | drawn[0]).sum() for one in drawn[1:]):
        return "two masks that differ"
    boxes, points, background = (_of_kind(told, kind) for kind in ("box", "point", "background"))
    area = _boxes_mask(boxes, size) if boxes else None
    if drawn and drawn[0].any():
        if area is not None and (drawn[0] & area).sum() < INSIDE * drawn[0].sum():
            return "a mask outside of its box"
        area = drawn[0]
    if area is not None and not all(_near(area, point) for point in points):
        return "a point of the subject outside of it"
    if drawn and any(drawn[0][_pixel(point, size)] for point in background):
        return "a point of the background inside of the subject"
    close = [np.hypot(p[0] - q[0], p[1] - q[1]) for p in points for q in background]
    return "a point of the subject on one of the background" if close and min(close) < POINT_REACH else ""


def _masks_by_file(told: Sequence[_Said]) -> dict[str, np.ndarray]:
    """File -> its masks of the frame together: a mask for each subject, or for each part."""
    masks: dict[str, np.ndarray] = {}
    for label, value in told:
        if isinstance(value, np.ndarray):
            before = masks.get(label.file)
            masks[label.file] = value if before is None else _united(before, value)
    return masks


def _united(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Subject where either says so, unknown where one of them knows nothing."""
    united = np.maximum(first, second)
    return np.where((first == IGNORED - 1) | (second == IGNORED - 1), np.uint8(IGNORED - 1), united)


def _of_kind(told: Sequence[_Said], kind: str) -> list[tuple[float, ...]]:
    return [value for label, value in told if label.kind == kind and isinstance(value, tuple)]


def _boxes_mask(boxes: Sequence[tuple[float, ...]], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((size[1], size[0]), bool)
    for box in boxes:
        left, top, right, bottom = box_slice(box, size)
        mask[top:bottom, left:right] = True
    return mask


def box_slice(box: tuple[float, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """left, top, right, bottom in whole pixels, at least one pixel wide and high."""
    left, top = (min(int(np.floor(box[k] * size[k] + 0.5)), size[k] - 1) for k in (0, 1))
    right, bottom = (max(int(np.floor(box[k + 2] * size[k] + 0.5)), first + 1) for k, first in ((0, left), (1, top)))
    return left, top, right, bottom


def _pixel(point: tuple[float, ...], size: tuple[int, int]) -> tuple[int, int]:
    x, y = (min(int(point[k] * size[k]), size[k] - 1) for k in (0, 1))
    return y, x


def _near(area: np.ndarray, point: tuple[float, ...]) -> bool:
    height, width = area.shape
    y, x = _pixel(point, (width, height))
    reach = max(1, round(POINT_REACH * height))
    return bool(area[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].any())


def _together(told: Sequence[_Said], size: tuple[int, int]) -> FrameLabel:
    if any(one.label.kind == "nothing" for one in told):
        return FrameLabel(np.zeros((size[1], size[0]), np.uint8))
    masks = list(_masks_by_file(told).values())
    boxes, points, background = (tuple(_of_kind(told, kind)) for kind in ("box", "point", "background"))
    present = any(one.label.kind == "present" for one in told)
    return FrameLabel(masks[0] if masks else None, boxes, points, background, present)
