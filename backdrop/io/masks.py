"""Masks on disk and the measures of their size: what the stages segment, refine and score hand to one another.

Every mask here says 1 (255, True) for foreground. A soft mask is the probability of foreground,
stored as 8 bits: 0..255 for 0..1. Boxes are (cx, cy, w, h) in image coordinates: x and y run from
-1 at the image's left or top EDGE to 1 at its right or bottom edge, w and h are full extents
(w = 2 spans the image), so that boxes do not depend on the resolution.
"""

from __future__ import annotations

import filecmp
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from backdrop.errors import BackdropError
from backdrop.io.archives import ZIP_FAULTS, ArchiveReader
from backdrop.io.files import atomic_path, show
from backdrop.io.images import decode_stored

BACKGROUND, VOID, FOREGROUND = 0, 128, 255  # the three values of a stored mask

Mask = Bool[np.ndarray, "H W"]

Soft = Float32[np.ndarray, "H W"]

Box = Float[np.ndarray, "4"]

BOXES = "predictions.npz"

THRESHOLD = "threshold.json"


def entry(t: int) -> str:
    """The name of frame t's mask in an archive."""
    return f"{t:06d}.png"


class MaskArchive(ArchiveReader):
    """Random access to the masks of one sequence: `data/masks/<sequence>.zip`, and the base of `Predictions`.

    A frame without a mask is missing, which is not an empty mask.
    """

    remedy = remedy_missing = "run the stage refine again"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._entries = self._entry_names()

    def __len__(self) -> int:
        """How many frames have a mask."""
        return sum(name.endswith(".png") for name in self._entries)

    def has(self, t: int) -> bool:
        """Whether frame t has a mask."""
        return entry(t) in self._entries

    def gray(self, t: int) -> UInt8[np.ndarray, "H W"]:
        """Frame t's mask as stored, 0..255.

        Raises:
            BackdropError: the entry is missing or damaged.
        """
        image = decode_stored(self._read(entry(t)))
        if image is None or image.ndim != 2 or image.dtype != np.uint8:
            raise self._damaged(entry(t))
        return image  # type: ignore[return-value]


class Predictions(MaskArchive):
    """Random access to `data/predictions/<sequence>.zip`: soft masks, boxes and cell probabilities.

    Attributes:
        box: (N, 4) float64, cx, cy, w, h of the chosen cell's box (see the module).
        p: (N, rows, columns) float64, the cells' probabilities.
        cell: (N,) int, the chosen cell, row-major.
    """

    remedy = remedy_missing = "run the stage segment again"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        try:
            with np.load(io.BytesIO(self._read(BOXES)), allow_pickle=False) as stored:
                self.box = np.asarray(stored["box"], np.float64)
                self.p = np.asarray(stored["p"], np.float64)
                self.cell = np.asarray(stored["cell"], np.int64)
        except ZIP_FAULTS as fault:
            raise self._damaged(BOXES) from fault
        count = len(self.box)
        if self.box.shape != (count, 4) or self.p.ndim != 3 or len(self.p) != count or self.cell.shape != (count,):
            raise self._damaged(BOXES)

    def soft(self, t: int) -> Soft:
        """Frame t's soft mask, float32 in [0, 1], 1 = foreground, at the stored frame's size."""
        return self.gray(t).astype(np.float32) / np.float32(255)

    def confidence(self, t: int) -> float:
        """The largest cell probability of frame t, by which detections are ranked."""
        return float(self.p[t].max())


def read_threshold(predictions_dir: Path | str) -> tuple[float, str]:
    """The threshold that the stage segment (or refine) chose, and on what.

    Returns:
        (threshold, "validation", "pseudo-masks", "default" or "params").

    Raises:
        BackdropError: threshold.json is missing or holds no threshold.
    """
    path = Path(predictions_dir) / THRESHOLD
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return float(stored["threshold"]), str(stored["chosen_on"])
    except FileNotFoundError as fault:
        raise BackdropError(f"{show(path)} does not exist: run the stage segment") from fault
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise BackdropError(f"{show(path)} holds no threshold ({fault}): run the stage segment again") from fault


def read_crf(masks_dir: Path | str) -> bool | None:
    """Whether the masks of the stage refine have passed the CRF; None: they are of a version that did not say so.

    Raises:
        BackdropError: as `read_threshold`.
    """
    read_threshold(masks_dir)  # which names what is wrong with the file
    said = json.loads((Path(masks_dir) / THRESHOLD).read_text(encoding="utf-8")).get("crf")
    return None if said is None else bool(said)


def write_threshold(folder: Path, threshold: float, chosen_on: str, crf: bool | None = None) -> dict[str, Any]:
    """What `read_threshold` and, where `crf` is given, `read_crf` read; returns what it wrote."""
    result = {"threshold": float(threshold), "chosen_on": chosen_on} | ({} if crf is None else {"crf": crf})
    with atomic_path(folder / THRESHOLD) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def same_predictions(first: Path | str, second: Path | str) -> bool:
    """Whether two folders of predictions hold the same, to the byte, threshold included."""
    names = [{path.name for path in Path(folder).iterdir()} for folder in (first, second)]
    if names[0] != names[1]:
        return False
    return all(filecmp.cmp(Path(first) / name, Path(second) / name, shallow=False) for name in names[0])


def within(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """The size (width, height) reduced in proportion to at most so many pixels."""
    share = min(1.0, float(np.sqrt(pixels / (size[0] * size[1]))))
    return max(1, int(share * size[0])), max(1, int(share * size[1]))


def resize_soft(soft: Soft, size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """A soft mask at size (width, height), bilinear, pixel centers at half integers of [0, size]."""
    if soft.shape == (size[1], size[0]):
        return soft
    return cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


def resize_mask(mask: Mask, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A binary mask at size (width, height): bilinear, then foreground where more than half."""
    if mask.shape == (size[1], size[0]):
        return mask
    return resize_soft(mask.astype(np.float32), size) > 0.5


def resize_region(region: Mask, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A region of interest at size (width, height): that of the nearest pixel, as its edge is nothing to average."""
    if region.shape == (size[1], size[0]):
        return region
    return cv2.resize(region.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0


def within_region(values: np.ndarray, region: Mask | None) -> np.ndarray:
    """The same (H, W) mask, soft or not, with 0 outside a region of any size; as it is without a region."""
    if region is None:
        return values
    return np.where(resize_region(region, (values.shape[1], values.shape[0])), values, values.dtype.type(0))


def split_truth(stored: UInt8[np.ndarray, "H W"]) -> tuple[Mask, Mask | None]:
    """Foreground and void pixels of stored ground truth (0, 128 = void, 255); None where nothing is void."""
    void = stored == VOID
    return stored == FOREGROUND, void if void.any() else None


def box_from_mask(mask: Mask) -> Box | None:
    """The tight box around a mask, cx, cy, w, h in image coordinates (see the module); None if it is empty."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    if w == 0:
        return None
    height, width = mask.shape
    return np.array([(2 * x + w) / width - 1, (2 * y + h) / height - 1, 2 * w / width, 2 * h / height])


def box_pixels(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge of a box in pixels of an image of size (width, height), 0 = the image's edge."""
    cx, cy, w, h = (float(value) for value in box)
    half_w, half_h = size[0] / 2, size[1] / 2
    return (
        (cx - w / 2 + 1) * half_w,
        (cy - h / 2 + 1) * half_h,
        (cx + w / 2 + 1) * half_w,
        (cy + h / 2 + 1) * half_h,
    )
