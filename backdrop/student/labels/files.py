"""The files of a folder of labels: masks in a folder a sequence, tables, exports of COCO, CVAT and Label Studio."""

from __future__ import annotations

import csv
import io
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from backdrop.errors import BackdropError
from backdrop.io.files import IMAGE_SUFFIXES, show
from backdrop.io.mask_images import decode_mask
from backdrop.student.labels.coco import coco_labels
from backdrop.student.labels.cvat import cvat_labels
from backdrop.student.labels.label import Complaints, Label, box_sides, tag_kind
from backdrop.student.labels.labelstudio import labelstudio_labels

TABLE_COLUMNS = ("video", "frame", "label", "left", "top", "right", "bottom")
"""Of a table by hand. label: box, point, background (a point), nothing, present; points have left and top alone."""

SILENT = (".txt", ".md", ".dvc")
"""Files that may lie among labels; so may hidden ones, and images other than PNG, which tools export beside labels."""


def labels_place(labels: str, footage: str) -> Path | None:
    """The folder or file of the labels; None: there are none.

    Args:
        labels: `data.labels`. footage: `data.path`. By default both are the same, and a folder `labels` in it counts.

    Raises:
        BackdropError: it was named, and is not there.
    """
    if os.path.normpath(labels) != os.path.normpath(footage):
        if not os.path.exists(labels):
            raise BackdropError(f"data.labels {show(labels)} does not exist; name the folder of the labels")
        return Path(labels)
    if not os.path.isdir(footage):
        return None
    return next((one for one in sorted(Path(footage).iterdir()) if one.name.lower() == "labels" and one.is_dir()), None)


def label_files(place: Path) -> list[Path]:
    """All files of a folder of labels in a fixed order, hidden ones left out; or the one file."""
    if place.is_file():
        return [place]
    found = (path for path in place.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(place).parts))


def read_files(place: Path, complaints: Complaints) -> Iterator[Label]:
    """All labels of a folder; what cannot be read goes to `complaints`, a file at a time."""
    base = place.parent
    for path in label_files(place):
        name, suffix = show(path.relative_to(base)), path.suffix.lower()
        reader = READERS.get(suffix)
        if reader is None:
            if suffix not in SILENT and suffix not in IMAGE_SUFFIXES:
                complaints.add(name, "no file of labels (PNG masks, CSV, JSON of COCO or Label Studio, XML of CVAT)")
            continue
        try:
            yield from reader(path, name, complaints)
        except (BackdropError, OSError, RecursionError) as fault:
            complaints.add(name, f"cannot be read ({' '.join(str(fault).split())})")


def _png(path: Path, name: str, complaints: Complaints) -> Iterator[Label]:
    """A mask, <sequence>/<frame>.png."""
    yield Label(name, f"{path.parent.name}/{path.name}", "mask", partial(decode_mask, path))


def _csv(path: Path, name: str, complaints: Complaints) -> Iterator[Label]:
    rows = csv.DictReader(io.StringIO(_utf8(path), newline=""), skipinitialspace=True)
    if not {"video", "frame", "label"} <= set(rows.fieldnames or ()):
        raise BackdropError(f"its first line must be {','.join(TABLE_COLUMNS)}")
    for line, row in enumerate(rows, 2):
        said = (row["label"] or "").strip().lower()
        try:
            image = f"{row['video'].strip()}/{row['frame'].strip()}"
            if tag := tag_kind(said):
                yield Label(name, image, tag)
            elif said == "box":
                left, top, right, bottom = (float(row[side]) for side in TABLE_COLUMNS[3:])
                yield Label(name, image, "box", box_sides(left, top, right - left, bottom - top))
            elif said in ("point", "background"):
                x, y, *_ = box_sides(row["left"], row["top"], 1, 1)
                yield Label(name, image, "point" if said == "point" else "background", (x, y))
            else:
                raise ValueError(said)
        except (KeyError, TypeError, ValueError, AttributeError):
            complaints.add(name, f"lines that are not {','.join(TABLE_COLUMNS)}", f"line {line}")


def _json(path: Path, name: str, complaints: Complaints) -> Iterator[Label]:
    try:
        content = json.loads(_utf8(path))
    except ValueError as fault:
        raise BackdropError(f"no JSON: {fault}") from fault
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return coco_labels(content, name, complaints)
    if isinstance(content, list):
        return labelstudio_labels(content, name, complaints)
    raise BackdropError("neither COCO nor Label Studio: export it again in one of these formats")


def _xml(path: Path, name: str, complaints: Complaints) -> Iterator[Label]:
    text = _utf8(path)
    if "<!ENTITY" in text:
        raise BackdropError("it defines entities, which no tool writes")
    try:
        root = ET.fromstring(text.encode())
    except ET.ParseError as fault:
        raise BackdropError(f"no XML: {fault}") from fault
    if root.tag != "annotations":
        raise BackdropError("not CVAT's: export it as CVAT for images 1.1 or CVAT for video 1.1")
    return cvat_labels(root, name, complaints)


def _utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise BackdropError("no text in UTF-8") from fault


READERS: dict[str, Callable[[Path, str, Complaints], Iterator[Label]]] = {
    ".png": _png,
    ".csv": _csv,
    ".json": _json,
    ".xml": _xml,
}
