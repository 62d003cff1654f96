"""Records: what is known of each segmented frame, as JSON lines.

A source's records are a file under `<out>/records/`: a header with the settings, one line per frame as soon as it is
segmented, and a last line when the source is complete. Whatever else can be made from a mask (see `exports`) is made
from records alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from backdrop.app.sources import Frame, Source
from backdrop.crf.instances import Labels, Linker, find_instances
from backdrop.crf.parameters import CRFParams
from backdrop.io.files import atomic_path
from backdrop.io.masks import Box, Mask, box_pixels
from backdrop.networks.predictor import Prediction

VERSION = 3
"""Of the records; others are made anew."""


class Settings(NamedTuple):
    """What decides a record.

    model: names the weights (a hash). threshold: foreground is above it. crf: None: the thresholded soft mask is the
    mask. every: frames 0, every, 2 every, ... of a video. min_confidence: frames below it hold no subject. instances:
    up to so many subjects, told apart; None: the mask is what the model makes it, as one.
    """

    model: str
    threshold: float
    crf: CRFParams | None
    every: int = 1
    min_confidence: float = 0.0
    instances: int | None = None

    def header(self, source: Source) -> dict[str, Any]:
        crf = None if self.crf is None else self.crf.model_dump(mode="json")
        return {
            "version": VERSION,
            "source": str(source.path.resolve()),
            "bytes": source.path.stat().st_size,
            "video": source.video,
            "model": self.model,
            "threshold": self.threshold,
            "crf": crf,
            "every": self.every,
            "min_confidence": self.min_confidence,
            "instances": self.instances,
        }


class SubjectRecord(NamedTuple):
    """A subject of a frame: the same number in all frames of a video, from 1; the rest as in `Record`."""

    number: int
    box: tuple[float, float, float, float]
    confidence: float
    mask: dict[str, Any]

    def decoded(self) -> Mask:
        """(H, W) bool, True = foreground."""
        return decoded(self.mask)


class Record(NamedTuple):
    """What is known of a frame.

    frame: its number in the file. time: seconds. size: (width, height). box: left, top, width, height in pixels.
    confidence: that there is a subject (`predictor.presence`), [0, 1]. mask: COCO's compressed RLE. instances: the
    subjects that make it up; None: they were not told apart.
    """

    frame: int
    time: float
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    confidence: float
    mask: dict[str, Any]
    instances: tuple[SubjectRecord, ...] | None = None

    def decoded(self) -> Mask:
        """(H, W) bool, True = foreground."""
        return decoded(self.mask)

    def parts(self) -> tuple[SubjectRecord, ...]:
        """The subjects; where they were not told apart, all of the mask as number 1, none where it is empty."""
        if self.instances is not None:
            return self.instances
        whole = SubjectRecord(1, self.box, self.confidence, self.mask)
        return (whole,) if whole.decoded().any() else ()

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
            KeyError, TypeError: it is none.
        """
        rest = {"size": tuple(row["size"]), "box": tuple(row["box"])}
        if row["instances"] is not None:
            rest["instances"] = tuple(SubjectRecord(**part | {"box": tuple(part["box"])}) for part in row["instances"])
        return cls(**row | rest)

    def row(self) -> dict[str, Any]:
        """What `read` reads."""
        parts = None if self.instances is None else [part._asdict() for part in self.instances]
        return self._asdict() | {"instances": parts}


class Records(NamedTuple):
    """What a records file holds: its header, its frames in order, whether the source is whole; bytes that are good."""

    header: dict[str, Any]
    frames: list[Record]
    whole: bool
    good: int


def encoded(mask: Mask) -> dict[str, Any]:
    """A mask as COCO's compressed RLE that JSON can hold."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decoded(rle: dict[str, Any]) -> Mask:
    """What `encoded` wrote: (H, W) bool, True = foreground."""
    return coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}) > 0


def inner_box(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels of what an image of size (width, height) shows of a box."""
    left, top, right, bottom = box_pixels(box, size)
    left, right = (min(max(x, 0.0), float(size[0])) for x in (left, right))
    top, bottom = (min(max(y, 0.0), float(size[1])) for y in (top, bottom))
    return round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)


def record_of(
    frame: Frame, prediction: Prediction, mask: Mask, parts: tuple[SubjectRecord, ...] | None = None
) -> Record:
    height, width = mask.shape
    box = inner_box(prediction.box, (width, height))
    confidence = round(prediction.presence, 4)
    return Record(frame.number, round(frame.time, 4), (width, height), box, confidence, encoded(mask), parts)


def parts_of(prediction: Prediction, mask: Mask, count: int, linker: Linker) -> tuple[SubjectRecord, ...]:
    """The subjects of a frame, by their numbers; the linker has seen the frames before."""
    height, width = mask.shape
    found = find_instances(prediction, mask, count)
    numbers = linker.numbers([one.mask for one in found])
    parts = [
        SubjectRecord(number, inner_box(one.box, (width, height)), round(one.confidence, 4), encoded(one.mask))
        for number, one in zip(numbers, found, strict=True)
    ]
    return tuple(sorted(parts))


def read_records(path: Path) -> Records | None:
    """What a records file holds up to its first damaged line; None where not even its header is whole."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    header: dict[str, Any] | None = None
    frames: list[Record] = []
    good, whole = 0, False
    for line in lines:
        if not line.endswith(b"\n"):
            break  # written half when the process was killed
        try:
            row = json.loads(line)
            if header is None:
                header = dict(row["header"])
            elif row.get("whole"):
                whole = True
            else:
                frames.append(Record.read(row))
        except (ValueError, KeyError, TypeError):
            break
        good += len(line)
    return None if header is None else Records(header, frames, whole, good)


def records_path(out: Path, source: Source) -> Path:
    return out / "records" / f"{source.name}.jsonl"


def json_line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"


def write_head(path: Path, header: dict[str, Any], keep: Records) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(json_line({"header": header}))
        for record in keep.frames:
            stream.write(json_line(record.row()))
