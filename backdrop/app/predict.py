"""Segmenting any material: images and videos in, records and pictures out; stopped, it goes on where it was."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backdrop.app.pictures import PICTURES, with_pictures, write_pictures
from backdrop.app.records import (
    Records,
    Settings,
    json_line,
    parts_of,
    read_records,
    record_of,
    records_path,
    write_head,
)
from backdrop.app.segmenter import Segmenter
from backdrop.app.sources import Frame, Source, frames_of
from backdrop.crf.dense import refine
from backdrop.crf.instances import Linker
from backdrop.errors import BackdropError, WriteError
from backdrop.io.files import show, sweep, sweep_below, writing
from backdrop.io.masks import Mask
from backdrop.networks.predictor import Prediction

LOCK = ".lock"
"""In the output folder; held by the process that writes there (see `alone_in`)."""

FOLDERS = ("records", *PICTURES, "davis", "yolo", "video")

FILES = ("coco.json", "labelstudio.json")
"""All that is in an output folder, exports too."""


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
    keep = with_pictures(before, out, source, pictures)
    if before.whole and len(keep.frames) == len(before.frames):
        return 0
    write_head(path, header, keep)
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
                write_pictures(out, source, frame, prediction, record, pictures)
                stream.write(json_line(record.row()))
                stream.flush()
                count += 1
                if progress is not None:
                    progress.update()
        stream.write(json_line({"whole": True}))
    return count


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
