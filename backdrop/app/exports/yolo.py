"""Export yolo: polygons in text files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from backdrop.app.exports.common import file_name
from backdrop.app.records import Records
from backdrop.app.sources import Source
from backdrop.io.files import atomic_path
from backdrop.io.masks import Mask

SIMPLIFY = 0.5
"""Pixels that a polygon may stray from the mask's outline."""


def polygons(mask: Mask) -> list[np.ndarray]:
    """Outlines of the mask's components as (N, 2) pixel coordinates, 0 = the image's edge; holes are filled.

    A component of fewer than three corners has none.
    """
    # Outlines run through the centers of border pixels: on a mask four times as large, so close to the pixels' edges
    # that what is lost is an eighth of a pixel.
    large = cv2.resize(mask.astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    simple = (cv2.approxPolyDP(contour, 4 * SIMPLIFY, True)[:, 0] for contour in contours)
    return [(points + 0.5) / 4 for points in simple if len(points) >= 3]


def write_yolo(out: Path, found: Sequence[tuple[Source, Records]], folder: Path) -> list[Path]:
    """`yolo`/labels/<image>.txt: a line an outline, "0 x1 y1 x2 y2 ..." in shares of the image; empty: no subject.

    Where subjects were told apart, `yolo`/numbers/<image>.txt has the number of the subject of each line.
    """
    written = []
    for source, records in found:
        for record in records.frames:
            lines, numbers = [], []
            for part in record.parts():
                for points in polygons(part.decoded()):
                    shares = (points / np.array(record.size)).clip(0, 1).ravel()
                    lines.append(" ".join(["0", *(f"{value:.6f}" for value in shares)]) + "\n")
                    numbers.append(f"{part.number}\n")
            rows = {"labels": lines} if record.instances is None else {"labels": lines, "numbers": numbers}
            for kind, text in rows.items():
                path = (folder / "yolo" / kind / file_name(source, record)).with_suffix(".txt")
                with atomic_path(path) as temporary:
                    temporary.write_text("".join(text), encoding="ascii")
                written.append(path)
    return written
