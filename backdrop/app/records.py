"""Records: what is known of each segmented frame, as JSON lines.

The records of a source are a file under `<out>/records/`. Its first line is a header with the settings. Each frame has
a line, which is written as soon as the frame is segmented. A last line says that the source is complete. Exports
(`exports/`) are made from records alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pydantic import TypeAdapter

from backdrop.app.reader import Found
from backdrop.app.sources import Source
from backdrop.crf.instances import Labels, find_instances
from backdrop.crf.parameters import CRFParams
from backdrop.doubts import sureness
from backdrop.errors import BackdropError
from backdrop.frames.regions import RegionImages
from backdrop.io.files import atomic_path, show, writing
from backdrop.io.masks import Box, Mask, box_pixels
from backdrop.io.run_lengths import run_lengths
from backdrop.networks.predictor import Prediction

VERSION = 5
"""Of the format of the records. Records of another version are made anew."""

PLACE = ("source", "file", "bytes", "modified")
"""Keys of a header that say where a source is and when it was written. Its records stay right when these change."""

COMPLETE = "whole"
"""The key of a file's last line. It has this name in the files of all versions."""


LIVE = "live"
"""Key of a header: the source was read as it came, and cannot be read again."""


class Settings(NamedTuple):
    """What decides a record.

    model: names the weights (a hash).
    threshold: foreground is above it, in [0, 1].
    crf: None: the thresholded soft mask is the mask.
    every: frames 0, every, 2 every, ... of a video.
    min_confidence: frames below it hold no subject, in [0, 1].
    instances: up to so many subjects, each with its number. None: the mask is one subject.
    roi: the regions of interest. None: the whole of each frame.
    """

    model: str
    threshold: float
    crf: CRFParams | None
    every: int = 1
    min_confidence: float = 0.0
    instances: int | None = None
    roi: RegionImages | None = None

    def header(self, source: Source) -> dict[str, Any]:
        """Where a source is, and what was asked of it, as JSON holds it."""
        crf = None if self.crf is None else self.crf.model_dump(mode="json")
        apart = {} if self.instances is None else {"told_apart": "instance CRF"}  # older records: among boxes
        return apart | {
            "version": VERSION,
            "source": os.path.abspath(source.path),
            "file": source.file,
            "video": source.video,
            "model": self.model,
            "threshold": self.threshold,
            "crf": crf,
            "every": self.every,
            "min_confidence": self.min_confidence,
            "instances": self.instances,
            "roi": None if self.roi is None else self.roi.digest(source.path),
        }


class SubjectRecord(NamedTuple):
    """A subject of a frame. It has the same number, from 1, in all frames of a video. The rest is as in `Record`."""

    number: int
    box: tuple[float, float, float, float]
    confidence: float
    mask: dict[str, Any]

    def decoded(self) -> Mask:
        """(H, W) bool, True = foreground."""
        return decoded(self.mask)


class Record(NamedTuple):
    """What is known of a frame.

    frame: its number in the file. time: seconds since the first frame. size: (width, height) in pixels.
    box: left, top, width, height in pixels.
    confidence: that there is a subject (`predictor.presence`), in [0, 1].
    sure: how sure the model is of the whole mask (`doubts.sureness`), in [0, 1].
    mask: COCO's compressed RLE.
    instances: the subjects that make up the mask. None: the mask was not divided.
    """

    frame: int
    time: float
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    confidence: float
    sure: float
    mask: dict[str, Any]
    instances: tuple[SubjectRecord, ...] | None = None

    def decoded(self) -> Mask:
        """(H, W) bool, True = foreground."""
        return decoded(self.mask)

    def parts(self) -> tuple[SubjectRecord, ...]:
        """The subjects. A mask that was not divided is subject 1; an empty one has no subject."""
        if self.instances is not None:
            return self.instances
        single = SubjectRecord(1, self.box, self.confidence, self.mask)
        return (single,) if single.decoded().any() else ()

    def labels(self) -> Labels:
        """(H, W) uint8, 0 = background, else the subject's number."""
        labels = np.zeros(self.mask["size"], np.uint8)
        for part in self.parts():
            labels[part.decoded()] = part.number
        return labels

    @classmethod
    def read(cls, row: dict[str, Any]) -> Record:
        """From its JSON.

        Raises:
            ValueError: it is not the JSON of a record, or a mask is not one of an image of this size.
        """
        record = _RECORD.validate_python(row)
        for mask in (record.mask, *(part.mask for part in record.instances or ())):
            if tuple(mask["size"]) != record.size[::-1] or sum(run_lengths(mask["counts"])) != math.prod(record.size):
                raise ValueError("a mask of another size")
        return record

    def row(self) -> dict[str, Any]:
        """What `read` reads."""
        parts = None if self.instances is None else [part._asdict() for part in self.instances]
        return self._asdict() | {"instances": parts}


_RECORD = TypeAdapter(Record)


class Ending(NamedTuple):
    """What is known at the end of a source. end: of its last frame, in seconds. damage: what is missing, or ""."""

    end: float = 0.0
    damage: str = ""


class Records(NamedTuple):
    """What a records file holds: its header, its frames in order, and whether these are all that can be read.

    boxes: no file holds them. For each frame a subject's number -> its steadied box (`exports.tracks.steadied`), left,
    top, right, bottom in pixels. None: boxes are the masks' extents.
    """

    header: dict[str, Any]
    frames: list[Record]
    complete: bool
    ending: Ending = Ending()
    boxes: list[dict[int, tuple[float, float, float, float]]] | None = None


def encoded(mask: Mask) -> dict[str, Any]:
    """A mask as COCO's compressed RLE that JSON can hold."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decoded(rle: dict[str, Any]) -> Mask:
    """What `encoded` wrote: (H, W) bool, True = foreground."""
    return coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}) > 0


def inner_box(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a box that lies in the image: left, top, width and height in pixels.

    Args:
        box: cx, cy, w, h in [-1, 1] image coordinates.
        size: of the image, (width, height) in pixels.
    """
    left, top, right, bottom = box_pixels(box, size)
    left, right = (min(max(x, 0.0), float(size[0])) for x in (left, right))
    top, bottom = (min(max(y, 0.0), float(size[1])) for y in (top, bottom))
    return round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)


def record_of(found: Found, mask: Mask, parts: tuple[SubjectRecord, ...] | None = None) -> Record:
    """The record of a frame.

    Args:
        mask: (H, W) bool, True = foreground.
        parts: the subjects that make it up (`parts_of`); None: it is not divided.
    """
    frame = found.frame
    height, width = mask.shape
    box = inner_box(found.prediction.box, (width, height))
    prediction = found.prediction
    presence, sure = round(prediction.presence, 4), round(sureness(prediction.mask, mask), 4)
    return Record(frame.number, round(frame.time, 6), (width, height), box, presence, sure, encoded(mask), parts)


def parts_of(prediction: Prediction, labels: Labels) -> tuple[SubjectRecord, ...]:
    """The subjects of a frame, in the order of their numbers. labels: 0 or the subject's number."""
    height, width = labels.shape
    return tuple(
        SubjectRecord(number, inner_box(one.box, (width, height)), round(one.confidence, 4), encoded(one.mask))
        for number, one in find_instances(labels, prediction.mask).items()  # type: ignore[arg-type]
    )


def read_records(path: Path) -> Records | None:
    """What a records file holds up to its first damaged line. None: there is no file, or its header is damaged."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    header: dict[str, Any] | None = None
    frames: list[Record] = []
    ending: Ending | None = None
    for line in lines:
        if not line.endswith(b"\n"):
            break  # written half when the process was killed
        try:
            row = json.loads(line)
            if header is None:
                header = dict(row["header"])
            elif row.get(COMPLETE):
                ending = Ending(float(row["end"]), str(row["damage"]))
            else:
                frames.append(Record.read(row))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            break
    return None if header is None else Records(header, frames, ending is not None, ending or Ending())


def content_hash(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_header(path: Path, old: Mapping[str, Any]) -> dict[str, Any]:
    """What tells whether a file has changed since a header was written: its size, its times, its content's hash.

    Args:
        old: that header. Where size, times and path are the same, its hash is taken and the file is not read.
    """
    status = path.stat()
    # the second time changes even where a program sets the first one back
    found = {"bytes": status.st_size, "modified": [status.st_mtime_ns, status.st_ctime_ns]}
    place = {"source": os.path.abspath(path), **found}
    known = "sha256" in old and all(old.get(key) == value for key, value in place.items())
    return {**found, "sha256": old["sha256"] if known else content_hash(path)}


def read_matching(path: Path, source: Source, settings: Settings) -> tuple[Records, dict[str, Any]]:
    """The records of a source that were made with these settings; without frames, if there are none.

    Returns:
        The records with the header of today, and the header in the file; {} if there is none.

    Raises:
        BackdropError: the file holds the records of another source, which is still there.
    """
    before = read_records(path) or Records({}, [], False)
    old = before.header
    content = content_header(source.path, old)
    header = settings.header(source) | content
    if has_changed(old, header) and old["source"] != header["source"] and os.path.isfile(old["source"]):
        raise BackdropError(
            f"{show(source.path)}: {show(path)} holds what was found in {show(old['source'])}, another file; give both "
            "in one command, or another folder with -o"
        )
    same = agree(old, header)
    return Records(header, before.frames if same else [], same and before.complete), old


def agree(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether records with the header `old` are right for `new`: of the same content, made with the same settings."""
    return all(old.get(key) == value for key, value in new.items() if key not in PLACE)


def has_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two headers are of different contents. {} is of none."""
    return "sha256" in old and old["sha256"] != new["sha256"]


def is_changed(records: Records) -> bool:
    """Whether the source is no longer what was segmented."""
    return has_changed(records.header, content_header(Path(records.header["source"]), records.header))


def recorded_names(out: Path) -> dict[str, list[str]]:
    """The files that were segmented into an output folder -> the names of their records."""
    names: dict[str, list[str]] = {}
    for path in sorted((out / "records").rglob("*.jsonl")):
        if source := first_header(path).get("source"):
            name = path.relative_to(out / "records").as_posix().removesuffix(".jsonl")
            names.setdefault(str(source), []).append(name)
    return names


def first_header(path: Path) -> dict[str, Any]:
    """The header of a records file, without reading its frames. No file, or none of ours: nothing."""
    try:
        with path.open("rb") as stream:
            return dict(json.loads(stream.readline())["header"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def records_path(out: Path, source: Source) -> Path:
    """Where the records of a source are in an output folder."""
    return out / "records" / f"{source.name}.jsonl"


def write_records(path: Path, records: Records) -> None:
    """Write a records file.

    Raises:
        WriteError: it cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(_json_line({"header": records.header}))
        for record in records.frames:
            stream.write(_json_line(record.row()))
        if records.complete:
            stream.write(_json_line({COMPLETE: True} | records.ending._asdict()))


@contextmanager
def appended_records(
    path: Path, start: Records, ending: Callable[[], Ending] = Ending
) -> Iterator[Callable[[Record], None]]:
    """Write a records file that begins with `start`; what is yielded appends a record.

    A record is in the file as soon as that returns, so a killed process loses none. At the end of the block the source
    is marked as complete, unless the block was left by an exception.

    Args:
        ending: called then.

    Raises:
        WriteError: the file cannot be written.
    """
    write_records(path, start._replace(complete=False))
    with writing(path), path.open("ab") as stream:

        def append(record: Record) -> None:
            stream.write(_json_line(record.row()))
            stream.flush()

        yield append
        last = ending()
        stream.write(_json_line({COMPLETE: True, "end": round(last.end, 6), "damage": last.damage}))


def _json_line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"
