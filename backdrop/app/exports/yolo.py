"""Export yolo: polygons in text files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from backdrop.app.exports.common import Faults, Files, Recorded, label_name, write_each
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


def write_yolo(found: Sequence[Recorded], folder: Path, faults: Faults | None = None) -> list[Path]:
    """Write <folder>/yolo/labels/<image>.txt with a line per outline: "0 x1 y1 x2 y2 ...", in shares of the image.

    An image without subject has an empty file. Where subjects have numbers, <folder>/yolo/numbers/<image>.txt holds the
    number of each line.
    """

    def files(source: Source, records: Records) -> Files:
        for record in records.frames:
            lines, numbers = _lines(record)
            rows = {"labels": lines} if record.instances is None else {"labels": lines, "numbers": numbers}
            for kind, text in rows.items():
                path = folder / "yolo" / kind / f"{label_name(source, record)}.txt"
                yield path, partial(Path.write_text, data="".join(text), encoding="ascii")

    return write_each(found, faults, files)


def _lines(record: Record) -> tuple[list[str], list[str]]:
    """A line for each outline, and the number of its subject."""
    lines, numbers = [], []
    for part in record.parts():
        for points in polygons(part.decoded()):
            shares = (points / np.array(record.size)).clip(0, 1).ravel()
            lines.append(" ".join(["0", *(f"{value:.6f}" for value in shares)]) + "\n")
            numbers.append(f"{part.number}\n")
    return lines, numbers
