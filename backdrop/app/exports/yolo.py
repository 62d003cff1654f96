"""Export yolo: polygons in text files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from backdrop.app.exports.common import (
    CATEGORY,
    DEFAULTS,
    ExportChoices,
    Faults,
    Files,
    Recorded,
    label_name,
    write_each,
    write_text,
)
from backdrop.app.exports.images import write_images
from backdrop.app.records import Record, Records
from backdrop.app.sources import Source
from backdrop.io.masks import Mask

SIMPLIFY = 0.5
"""Pixels that a polygon may stray from the mask's outline."""


def polygons(mask: Mask) -> list[np.ndarray]:
    """Outlines of the mask's components, (N, 2) pixel coordinates x, y each; 0 is the image's edge.

    Holes are filled. An outline of fewer than three corners is left out.
    """
    # OpenCV's outlines run through the centers of border pixels, half a pixel inside the mask. On a mask four times as
    # large that is an eighth of a pixel.
    large = cv2.resize(mask.astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    simple = (cv2.approxPolyDP(contour, 4 * SIMPLIFY, True)[:, 0] for contour in contours)
    return [(points + 0.5) / 4 for points in simple if len(points) >= 3]


def joined(outlines: Sequence[np.ndarray]) -> np.ndarray:
    """Several outlines as one, joined by bridges without width where they are nearest. (N, 2) each.

    A line of the format is an object, and a subject may be seen in parts. Raises ValueError: there is no outline.
    """
    whole, *others = sorted(outlines, key=lambda points: -cv2.contourArea(points.astype(np.float32)))
    for other in others:
        distances = np.square(whole[:, None] - other[None]).sum(axis=2)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        around = np.roll(other, -int(there), axis=0)
        whole = np.concatenate([whole[: here + 1], around, around[:1], whole[here:]])
    return whole


def write_yolo(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/yolo/labels/<image>.txt with a line per subject: "0 x1 y1 x2 y2 ...", in shares of the image.

    An image without subject has an empty file. Where subjects have numbers, <folder>/yolo/numbers/<image>.txt holds the
    number of each line. With images, images/<image> lie beside it, and data.yaml names all for ultralytics.
    """
    images: list[Path] = []
    if choices.images:
        found, images = write_images(found, folder / "yolo" / "images", _image_name, faults)

    def files(source: Source, records: Records) -> Files:
        for record in records.frames:
            lines, numbers = _lines(record)
            rows = {"labels": lines} if record.instances is None else {"labels": lines, "numbers": numbers}
            for kind, text in rows.items():
                path = folder / "yolo" / kind / f"{label_name(source, record)}.txt"
                yield path, partial(Path.write_text, data="".join(text), encoding="ascii")

    labels = write_each(found, faults, files)
    if not choices.images:
        return labels
    write_text(folder / "yolo" / "data.yaml", _DATA)
    return [folder / "yolo" / "data.yaml", *labels, *images]


_DATA = f"""# The folder of this file is the data set. Give val frames of its own before you trust a score.
train: images
val: images
names:
  0: {CATEGORY}
"""


def _image_name(source: Source, record: Record) -> str:
    """The name of its labels with the image's suffix: so they find each other."""
    return label_name(source, record) + (".jpg" if source.video else source.path.suffix)


def _lines(record: Record) -> tuple[list[str], list[str]]:
    """A line for each subject, and its number."""
    lines, numbers = [], []
    for part in record.parts():
        if outlines := polygons(part.decoded()):
            shares = (joined(outlines) / np.array(record.size)).clip(0, 1).ravel()
            lines.append(" ".join(["0", *(f"{value:.6f}" for value in shares)]) + "\n")
            numbers.append(f"{part.number}\n")
    return lines, numbers
