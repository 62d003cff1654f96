"""What the exports share: sources with their records, file names, components."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backdrop.app.records import Record, Records, read_records
from backdrop.app.sources import Source
from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path, show
from backdrop.io.masks import Mask

CATEGORY = "subject"
"""The one class of objects, as other tools name it."""

Recorded = tuple[Source, Records]
"""A source with its records."""

Export = Callable[[Sequence[Recorded], Path], list[Path]]
"""Writes the masks of all frames into a folder, and returns the files. See `recorded` for the first argument."""


def recorded(out: Path, names: Collection[str] | None = None) -> list[Recorded]:
    """The sources of a folder that `predict` wrote, with their records, by name.

    Args:
        names: of the sources that are wanted. None: all.

    Raises:
        BackdropError: no such folder, no records, or a source that is not segmented to its end.
    """
    folder = out / "records"
    paths = sorted(folder.rglob("*.jsonl"))
    if not paths:
        raise BackdropError(f"{show(folder)} holds no records; run `backdrop predict ... -o {show(out)}` first")
    found = []
    for path in paths:
        name = path.relative_to(folder).as_posix().removesuffix(".jsonl")
        if names is not None and name not in names:
            continue
        records = read_records(path)
        if records is None or not records.complete:
            raise BackdropError(f"{show(path)} is not complete; run the same `backdrop predict` again to finish it")
        found.append((Source(Path(records.header["source"]), name, bool(records.header["video"])), records))
    return found


def file_name(source: Source, record: Record) -> str:
    """The name of a frame in other tools: the image's file, or <video>/<frame>.jpg."""
    return f"{source.name}/{record.frame:06d}.jpg" if source.video else f"{source.name}{source.path.suffix}"


def components(mask: Mask) -> Iterator[Mask]:
    """The connected parts of a mask, (H, W) bool each. Pixels that touch at a corner are connected."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        yield labels == label


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, all of it or nothing.

    Raises:
        WriteError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
