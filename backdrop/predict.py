"""Segmenting any material: images and videos in, records and pictures out; stopped, it goes on where it was.

A source's records are a file of JSON lines under `<out>/records/`: a header with the settings, one line a frame as soon
as it is segmented, and a last line when the source is whole. Whatever else can be made from a mask (see `export`) is
made from records alone; only pictures and soft masks are written while segmenting.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from backdrop.crf import refine
from backdrop.errors import BackdropError, WriteError
from backdrop.instances import Labels, Linker, find_instances
from backdrop.masks import Box, Mask, box_pixels
from backdrop.overlay import Picture, draw_mask
from backdrop.params import CRFParams
from backdrop.segmenter import Prediction, Segmenter
from backdrop.sources import Frame, Source, frames_of
from backdrop.video import atomic_path, encode_jpeg, encode_png, show, sweep, sweep_below, writing

VERSION = 3
"""Of the records; others are made anew."""
LOCK = ".lock"
"""In the output folder; held by the process that writes there (see `alone_in`)."""
PICTURES = ("masks", "overlay", "npz")
"""What is written while segmenting."""
FOLDERS = ("records", *PICTURES, "davis", "yolo", "video")
FILES = ("coco.json", "labelstudio.json")
"""All that is in an output folder, exports too."""
COLORS = [
    (236, 95, 103),
    (102, 153, 204),
    (250, 200, 99),
    (153, 199, 148),
    (197, 148, 197),
    (98, 179, 178),
    (249, 145, 87),
    (171, 121, 103),
]
"""Of the subjects' numbers 1, 2, ..., begun again after the last."""


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


class Part(NamedTuple):
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
    confidence: that there is a subject (`segmenter.presence`), [0, 1]. mask: COCO's compressed RLE. instances: the
    subjects that make it up; None: they were not told apart.
    """

    frame: int
    time: float
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    confidence: float
    mask: dict[str, Any]
    instances: tuple[Part, ...] | None = None

    def decoded(self) -> Mask:
        """(H, W) bool, True = foreground."""
        return decoded(self.mask)

    def parts(self) -> tuple[Part, ...]:
        """The subjects; where they were not told apart, all of the mask as number 1, none where it is empty."""
        if self.instances is not None:
            return self.instances
        whole = Part(1, self.box, self.confidence, self.mask)
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
            rest["instances"] = tuple(Part(**part | {"box": tuple(part["box"])}) for part in row["instances"])
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


def record_of(frame: Frame, prediction: Prediction, mask: Mask, parts: tuple[Part, ...] | None = None) -> Record:
    height, width = mask.shape
    box = inner_box(prediction.box, (width, height))
    confidence = round(prediction.presence, 4)
    return Record(frame.number, round(frame.time, 4), (width, height), box, confidence, encoded(mask), parts)


def parts_of(prediction: Prediction, mask: Mask, count: int, linker: Linker) -> tuple[Part, ...]:
    """The subjects of a frame, by their numbers; the linker has seen the frames before."""
    height, width = mask.shape
    found = find_instances(prediction, mask, count)
    numbers = linker.numbers([one.mask for one in found])
    parts = [
        Part(number, inner_box(one.box, (width, height)), round(one.confidence, 4), encoded(one.mask))
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


def picture_path(out: Path, kind: str, source: Source, frame: int) -> Path:
    """<out>/masks/<name>.png of an image, <out>/masks/<name>/000000.png of a video; overlay .jpg, soft masks .npz."""
    suffix = {"masks": ".png", "overlay": ".jpg", "npz": ".npz"}[kind]
    if not source.video:
        return out / kind / f"{source.name}{suffix}"
    return out / kind / source.name / f"{frame:06d}{suffix}"


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep other processes out of an output folder, which is made if missing, until the block ends.

    Temporary files that a killed process left in it are removed.

    The system gives the lock back when the process dies, however it dies. Where the file system knows no locks, there
    is none.

    Raises:
        BackdropError: another process holds it, or `out` cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        stream = (out / LOCK).open("ab")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackdropError(
                f"another `backdrop predict` is writing into {show(out)}; wait for it, or choose another folder"
            ) from None
        except OSError:
            pass
        for kind in FOLDERS:
            sweep_below(out / kind)
        for name in FILES:
            sweep(out / name)
        yield


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
    count, linker = 0, Linker()
    for record in keep.frames:
        linker.numbers([part.decoded() for part in record.instances or ()], [p.number for p in record.instances or ()])
    waiting = (frame for frame in frames_of(source, settings.every) if frame.number not in done)
    with writing(path), path.open("ab") as stream:
        for frames in _batches(waiting, batch):
            predictions = segmenter.predict_batch([frame.image for frame in frames], settings.instances)
            for frame, prediction in zip(frames, predictions, strict=True):
                mask, parts = _mask(frame, prediction, settings), None
                if settings.instances is not None:
                    parts = parts_of(prediction, mask, settings.instances, linker)
                record = record_of(frame, prediction, mask, parts)
                _write_pictures(out, source, frame, prediction, record, pictures)
                stream.write(_line(record.row()))
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
            stream.write(_line(record.row()))


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
    out: Path, source: Source, frame: Frame, prediction: Prediction, record: Record, pictures: Sequence[str]
) -> None:
    for kind in pictures:
        path = picture_path(out, kind, source, frame.number)
        with atomic_path(path) as temporary:
            if kind == "masks":
                told_apart = record.instances is not None
                temporary.write_bytes(
                    encode_png(record.labels() if told_apart else record.decoded().astype(np.uint8) * 255)
                )
            elif kind == "overlay":
                temporary.write_bytes(encode_jpeg(drawn(frame.image, record)))
            else:
                soft = prediction.mask.astype(np.float16)
                with temporary.open("wb") as stream:
                    np.savez_compressed(
                        stream, mask=soft, box=prediction.box, p=prediction.p, instances=record.labels()
                    )


def drawn(image: Picture, record: Record) -> Picture:
    """The image with its mask drawn in, each subject that was told apart in a color of its own."""
    if record.instances is None:
        return draw_mask(image, record.decoded())
    for part in record.instances:
        image = draw_mask(image, part.decoded(), COLORS[(part.number - 1) % len(COLORS)])
    return image


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

    A source that cannot be read does not keep the others from being segmented. Two processes in one folder would write
    into each other's records: see `alone_in`.

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
                except WriteError:
                    raise
                except BackdropError as fault:
                    faults.append((source, fault))
            bar.update()
    return faults
