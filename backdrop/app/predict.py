"""Segmenting images and videos into records and pictures. After a stop it goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backdrop.app.exports import FORMATS
from backdrop.app.pictures import PICTURES, Pictures
from backdrop.app.reader import Found, find_subjects, frames_of
from backdrop.app.records import (
    Record,
    Settings,
    appended_records,
    parts_of,
    read_matching,
    record_of,
    records_path,
)
from backdrop.app.segmenter import Segmenter
from backdrop.app.sources import Source
from backdrop.crf.dense import refine
from backdrop.crf.instances import Linker
from backdrop.errors import BackdropError, WriteError
from backdrop.io.files import show, sweep, sweep_below, writing
from backdrop.io.masks import Mask
from backdrop.run.locks import locked

LOCK = ".lock"
"""In the output folder; held by the process that writes there (see `alone_in`)."""


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep other processes out of an output folder until the block ends. The folder is made if missing.

    Temporary files that a killed process left in it are removed.

    What a lock is worth: see `locks.locked`.

    Raises:
        BackdropError: another process holds it, or `out` cannot be written.
    """
    busy = f"another `backdrop predict` is writing into {show(out)}; wait for it, or choose another folder"
    with ExitStack() as held:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(out / LOCK, busy))
        for name in ("records", *PICTURES, *FORMATS):
            sweep_below(out / name)
        for name in FORMATS:
            sweep(out / f"{name}.json")
        yield


@dataclass(frozen=True)
class Job:
    """What `predict` does with each source.

    segmenter: what segments.
    out: the folder for records and pictures.
    settings: what decides a record.
    pictures: kinds of `PICTURES` that are written.
    batch: frames of a video in memory at a time. They are segmented by themselves, so it is for speed alone.
    """

    segmenter: Segmenter
    out: Path
    settings: Settings
    pictures: Sequence[str] = ("masks",)
    batch: int = 8


def predict_source(job: Job, source: Source, progress: tqdm | None = None) -> int:
    """Segment the frames of a source that are not segmented yet, and return their number.

    Segmented are the frames that have a record, made with the same settings, up to the first that lacks a picture.

    Raises:
        BackdropError: the source cannot be read, or `job.out` cannot be written. The records of earlier batches stay.
    """
    path, settings = records_path(job.out, source), job.settings
    before = read_matching(path, settings.header(source))
    pictures = Pictures(job.out, source, job.pictures)
    done = list(takewhile(lambda record: not pictures.missing(record), before.frames))
    if before.complete and len(done) == len(before.frames):
        return 0
    if progress is not None:
        progress.update(len(done))
    count, linker = 0, _linker_after(done)
    numbers = {record.frame for record in done}
    waiting = (frame for frame in frames_of(source, settings.every) if frame.number not in numbers)
    with appended_records(path, before._replace(frames=done)) as append:
        for found in find_subjects(job.segmenter, waiting, job.batch, settings.instances):
            record = _described(found, settings, linker)
            pictures.write(found, record)
            append(record)
            count += 1
            if progress is not None:
                progress.update()
    return count


def _linker_after(records: Sequence[Record]) -> Linker:
    """A linker that has seen the subjects of these frames."""
    linker = Linker()
    for record in records:
        parts = record.instances or ()
        linker.numbers([part.decoded() for part in parts], [part.number for part in parts])
    return linker


def _described(found: Found, settings: Settings, linker: Linker) -> Record:
    """The record of the next frame."""
    mask = _mask(found, settings)
    if settings.instances is None:
        return record_of(found, mask)
    return record_of(found, mask, parts_of(found.prediction, mask, settings.instances, linker))


def _mask(found: Found, settings: Settings) -> Mask:
    """(H, W) bool, True = foreground."""
    prediction = found.prediction
    if prediction.presence < settings.min_confidence:
        return np.zeros(prediction.mask.shape, bool)
    if settings.crf is None:
        return prediction.mask > settings.threshold
    return refine(found.frame.image, prediction.mask, settings.threshold, settings.crf)  # type: ignore[arg-type] # a Literal


def predict_all(job: Job, sources: Sequence[Source], quiet: bool = False) -> list[tuple[Source, BackdropError]]:
    """Segment all sources, and return those that could not be read, each with its fault.

    A source that cannot be read does not keep the others from being segmented. Two processes in one folder would write
    into each other's records: see `alone_in`.

    Args:
        quiet: shows no progress.

    Raises:
        WriteError: `job.out` cannot be written.
    """
    faults = []
    job.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(sources), desc="segmenting", unit="file", disable=quiet) as bar:
        for source in sources:
            inner = tqdm(desc=show(source.path)[-40:], unit="frame", leave=False, disable=quiet or not source.video)
            with inner:
                try:
                    predict_source(job, source, inner)
                except WriteError:
                    raise
                except BackdropError as fault:
                    faults.append((source, fault))
            bar.update()
    return faults
