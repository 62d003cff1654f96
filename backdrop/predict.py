"""Segmenting any material: images and videos in, records and pictures out; stopped, it goes on where it was.

A source's records are a file of JSON lines under `<out>/records/`: a header with the settings, one line a frame as soon
as it is segmented, and a last line when the source is whole. Whatever else can be made from a mask (see `export`) is
made from records alone; only pictures and soft masks are written while segmenting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from backdrop.crf import refine
from backdrop.errors import BackdropError
from backdrop.masks import Box, Mask, box_pixels
from backdrop.overlay import draw_mask
from backdrop.params import CRFParams
from backdrop.segmenter import Prediction, Segmenter
from backdrop.sources import Frame, Source, frames_of
from backdrop.video import atomic_path, encode_jpeg, encode_png, show

VERSION = 2
"""Of the records; others are made anew."""
PICTURES = ("masks", "overlay", "npz")
"""What is written while segmenting."""


class Settings(NamedTuple):
    """What decides a record.

    model: names the weights (a hash). threshold: foreground is above it. crf: None: the thresholded soft mask is the
    mask. every: frames 0, every, 2 every, ... of a video. min_confidence: frames below it hold no subject.
    """

    model: str
    threshold: float
    crf: CRFParams | None
    every: int = 1
    min_confidence: float = 0.0

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
        }


class Record(NamedTuple):
    """What is known of a frame.

    frame: its number in the file. time: seconds. size: (width, height). box: left, top, width, height in pixels.
    confidence: that there is a subject (`segmenter.presence`), [0, 1]. mask: COCO's compressed RLE.
    """

    frame: int
    time: float
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    confidence: float
    mask: dict[str, Any]

    def decoded(self) -> Mask:
        """(H, W) bool, True = foreground."""
        counts = self.mask["counts"].encode("ascii")
        return coco_mask.decode({"size": self.mask["size"], "counts": counts}) > 0


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


def inner_box(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels of what an image of size (width, height) shows of a box."""
    left, top, right, bottom = box_pixels(box, size)
    left, right = (min(max(x, 0.0), float(size[0])) for x in (left, right))
    top, bottom = (min(max(y, 0.0), float(size[1])) for y in (top, bottom))
    return round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)


def record_of(frame: Frame, prediction: Prediction, mask: Mask) -> Record:
    height, width = mask.shape
    box = inner_box(prediction.box, (width, height))
    confidence = round(prediction.presence, 4)
    return Record(frame.number, round(frame.time, 4), (width, height), box, confidence, encoded(mask))


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
                frames.append(Record(**row | {"size": tuple(row["size"]), "box": tuple(row["box"])}))
        except (ValueError, KeyError, TypeError):
            break
        good += len(line)
    return None if header is None else Records(header, frames, whole, good)


def records_path(out: Path, source: Source) -> Path:
    return out / "records" / f"{source.name}.jsonl"


def picture_path(out: Path, kind: str, source: Source, frame: int) -> Path:
    """<out>/masks/<name>.png of an image, <out>/masks/<name>/000000.png of a video; overlay .jpg, soft masks .npz."""
    suffix = {"masks": ".png", "overlay": ".jpg", "npz": ".npz"}[kind]
    if not source.video:
        return out / kind / f"{source.name}{suffix}"
    return out / kind / source.name / f"{frame:06d}{suffix}"


def predict_source(
    segmenter: Segmenter,
    source: Source,
    out: Path,
    settings: Settings,
    pictures: Sequence[str] = ("masks",),
    batch: int = 8,
    progress: tqdm | None = None,
) -> int:
    """Segment what is not yet segmented of a source; the number of frames that were.

    Frames that the records hold, made with the same settings, and whose pictures are there are not segmented again.
    Each frame is segmented by itself: batches are for speed.

    Raises:
        BackdropError: the source cannot be read (what came before the fault is kept), or `out` cannot be written.
    """
    path, header = records_path(out, source), settings.header(source)
    before = read_records(path)
    if before is None or before.header != header:
        before = Records(header, [], False, 0)
    keep = _with_pictures(before, out, source, pictures)
    if before.whole and len(keep.frames) == len(before.frames):
        return 0
    _write_head(path, header, keep)
    done = {record.frame for record in keep.frames}
    if progress is not None:
        progress.update(len(done))
    count = 0
    waiting = (frame for frame in frames_of(source, settings.every) if frame.number not in done)
    with path.open("ab") as stream:
        for frames in _batches(waiting, batch):
            predictions = segmenter.predict_batch([frame.image for frame in frames])
            for frame, prediction in zip(frames, predictions, strict=True):
                mask = _mask(frame, prediction, settings)
                _write_pictures(out, source, frame, prediction, mask, pictures)
                stream.write(_line(record_of(frame, prediction, mask)._asdict()))
                stream.flush()
                count += 1
                if progress is not None:
                    progress.update()
        stream.write(_line({"whole": True}))
    return count


def _with_pictures(records: Records, out: Path, source: Source, pictures: Sequence[str]) -> Records:
    """The records up to the first frame that lacks one of the pictures asked for."""
    kept = []
    for record in records.frames:
        if not all(picture_path(out, kind, source, record.frame).is_file() for kind in pictures):
            break
        kept.append(record)
    return records._replace(frames=kept)


def _write_head(path: Path, header: dict[str, Any], keep: Records) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(_line({"header": header}))
        for record in keep.frames:
            stream.write(_line(record._asdict()))


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Frames in lists of `size`, all of a list as large as the first: the networks stack them, pictures need not."""
    iterator = iter(frames)
    while batch := list(islice(iterator, size)):
        yield batch


def _mask(frame: Frame, prediction: Prediction, settings: Settings) -> Mask:
    if prediction.presence < settings.min_confidence:
        return np.zeros(prediction.mask.shape, bool)
    if settings.crf is None:
        return prediction.mask > settings.threshold
    return refine(frame.image, prediction.mask, settings.threshold, settings.crf)  # type: ignore[arg-type] # a Literal


def _write_pictures(
    out: Path, source: Source, frame: Frame, prediction: Prediction, mask: Mask, pictures: Sequence[str]
) -> None:
    for kind in pictures:
        path = picture_path(out, kind, source, frame.number)
        with atomic_path(path) as temporary:
            if kind == "masks":
                temporary.write_bytes(encode_png(mask.astype(np.uint8) * 255))
            elif kind == "overlay":
                temporary.write_bytes(encode_jpeg(draw_mask(frame.image, mask)))
            else:
                with temporary.open("wb") as stream:
                    np.savez_compressed(
                        stream, mask=prediction.mask.astype(np.float16), box=prediction.box, p=prediction.p
                    )


def predict_all(
    segmenter: Segmenter,
    sources: Sequence[Source],
    out: Path,
    settings: Settings,
    pictures: Sequence[str] = ("masks",),
    batch: int = 8,
    quiet: bool = False,
) -> list[tuple[Source, BackdropError]]:
    """Segment all sources, images one after the other as frames of one progress bar; the faults, if any.

    A source that cannot be read does not keep the others from being segmented.

    Raises:
        BackdropError: `out` cannot be written.
    """
    faults = []
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(sources), desc="segmenting", unit="file", disable=quiet) as bar:
        for source in sources:
            inner = tqdm(desc=show(source.path)[-40:], unit="frame", leave=False, disable=quiet or not source.video)
            with inner:
                try:
                    predict_source(segmenter, source, out, settings, pictures, batch, inner)
                except BackdropError as fault:
                    if "cannot write" in str(fault):
                        raise
                    faults.append((source, fault))
            bar.update()
    return faults
