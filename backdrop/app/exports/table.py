"""Export csv: a table with a row per frame and subject."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from backdrop.app.exports.common import DEFAULTS, ExportChoices, Faults, Recorded, doubts_of, each_source
from backdrop.app.records import Record, Records
from backdrop.app.sources import Source
from backdrop.io.files import atomic_path
from backdrop.io.masks import Mask

_COLUMNS = {
    "video": "str", "frame": "Int64", "time_s": "Float64", "identity": "Int64", "area": "Int64",
    "centroid_x": "Float64", "centroid_y": "Float64",
    "box_left": "Int64", "box_top": "Int64", "box_width": "Int64", "box_height": "Int64",
    "presence": "Float64", "sure": "Float64", "doubts": "str", "image_width": "Int64", "image_height": "Int64",
}  # fmt: skip


def write_csv(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/csv/frames.csv: a row per frame and subject; docs/cli.md names its columns.

    A frame without subject has one row, with area 0, and without identity, centroid and box.
    """
    rows = [row for own in each_source(found, faults, _rows) for row in own]
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    path = folder / "csv" / "frames.csv"
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.10g", encoding="utf-8")
    return [path]


def _rows(source: Source, records: Records) -> list[dict[str, Any]]:
    steady = [{} for _ in records.frames] if records.boxes is None else records.boxes
    return [
        {"video": source.name, "frame": record.frame, "time_s": record.time, **row}
        | {"sure": record.sure, "doubts": " ".join(why), "image_width": record.size[0], "image_height": record.size[1]}
        for record, why, boxes in zip(records.frames, doubts_of(records), steady, strict=True)
        for row in _subject_rows(record, boxes)
    ]


def _subject_rows(record: Record, steady: dict[int, tuple[float, float, float, float]]) -> Iterator[dict[str, Any]]:
    for part in record.parts():
        box = _rounded(steady[part.number]) if part.number in steady else {}
        yield {"identity": part.number, "presence": part.confidence, **_measured(part.decoded()), **box}
    unseen = sorted(set(steady) - {part.number for part in record.parts()})
    for number in unseen:
        yield {"identity": number, "presence": record.confidence, "area": 0, **_rounded(steady[number])}
    if not (record.parts() or unseen):
        yield {"presence": record.confidence, "area": 0}


def _rounded(box: tuple[float, float, float, float]) -> dict[str, int]:
    """A steadied box in whole pixels, as the columns hold it."""
    left, top, right, bottom = (round(edge) for edge in box)
    return {"box_left": left, "box_top": top, "box_width": right - left, "box_height": bottom - top}


def _measured(mask: Mask) -> dict[str, Any]:
    """Of a mask that is not empty."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    y, x = (float(np.mean(indices)) + 0.5 for indices in np.nonzero(mask))  # a pixel's center is half a pixel in
    return {
        "area": int(mask.sum()),
        "centroid_x": round(x, 3),
        "centroid_y": round(y, 3),
        "box_left": left,
        "box_top": top,
        "box_width": width,
        "box_height": height,
    }
