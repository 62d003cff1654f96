"""Segmenting images and videos into records and pictures. After a stop it goes on where it was."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from backdrop.app.exports import FORMATS
from backdrop.app.pictures import Pictures
from backdrop.app.reader import Found, Frame, find_subjects, frames_of
from backdrop.app.records import (
    Ending,
    Record,
    Settings,
    agree,
    appended_records,
    content_hash,
    first_header,
    parts_of,
    read_matching,
    record_of,
    recorded_names,
    records_path,
    write_records,
)
from backdrop.app.segmenter import Segmenter
from backdrop.app.sources import LOCK, RESULT_FOLDERS, Source, costing_itself
from backdrop.crf.dense import refine
from backdrop.crf.findings import best_finding
from backdrop.crf.instance.both_ways import TOLD_CHUNK, told_apart
from backdrop.crf.instance.tracking import FrameToTell, SubjectTracker
from backdrop.crf.instances import chosen_boxes
from backdrop.errors import BackdropError, WriteError
from backdrop.frames.regions import fits_frame
from backdrop.io.files import show, sweep, sweep_below, writing
from backdrop.io.masks import Mask, within_region
from backdrop.run.locks import locked
from backdrop.video.decode import Tally, damage, end_of_video, probe


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
        for name in RESULT_FOLDERS:
            sweep_below(out / name)
        for name in FORMATS:
            for suffix in (".json", ".xml"):
                sweep(out / f"{name}{suffix}")
        yield


@dataclass(frozen=True)
class Job:
    """What `predict` does with each source.

    segmenter: what segments.
    out: the folder for records and pictures.
    settings: what decides a record.
    pictures: kinds of `PICTURES` that are written.
    batch: frames of a video at a time; two batches are in memory. They are segmented by themselves, so it is for
        speed alone.
    """

    segmenter: Segmenter
    out: Path
    settings: Settings
    pictures: Sequence[str] = ("masks",)
    batch: int = 8


def predict_source(job: Job, source: Source, progress: tqdm | None = None) -> int:
    """Segment the frames of a source that are not segmented yet, and return their number.

    Segmented are the frames that have a record, made of the same content with the same settings, up to the first that
    lacks a picture. Pictures of another content, or that were made with other settings, are removed.

    Raises:
        BackdropError: the source cannot be read, or `job.out` cannot be written. The records of earlier batches stay.
    """
    if source.fault:
        raise BackdropError(source.fault)
    with costing_itself(source):
        return _predict_rest(job, source, progress)


def _predict_rest(job: Job, source: Source, progress: tqdm | None) -> int:
    path, settings = records_path(job.out, source), job.settings
    region = None if settings.roi is None else settings.roi.region(source.path)
    before, old = read_matching(path, source, settings)
    pictures = Pictures(job.out, source, job.pictures)
    if old and not agree(old, before.header):  # frames that are not segmented now would stay among the new ones
        pictures.remove()
    if old and old.get("video") != source.video:  # a video that became an image of its name, or an image a video
        Pictures(job.out, source._replace(video=not source.video), ()).remove()
    done = list(takewhile(lambda record: not pictures.missing(record), before.frames))
    if progress is not None:
        _pass_over(progress, len(done))
    if before.complete and len(done) == len(before.frames):
        if before.header != old:  # the source was touched, or has moved
            write_records(path, before)
        return 0
    tracker = None if settings.instances is None else SubjectTracker(settings.instances)
    if tracker is not None:
        done = done[: len(done) // TOLD_CHUNK * TOLD_CHUNK]  # a chunk is told apart as a whole
    count, tally = 0, Tally()
    frames = fitting(source, frames_of(source, settings.every, tally), settings, region)
    waiting = _not_done(frames, done, tracker)
    with appended_records(path, before._replace(frames=done), lambda: _ending(source, tally, before.header)) as append:
        segmented = find_subjects(job.segmenter, waiting, job.batch, settings.instances, region)
        for found, record in _described(segmented, settings, tracker, region):
            pictures.write(found, record)
            append(record)
            count += 1
            if progress is not None:
                progress.update()
    return count


def fitting(source: Source, frames: Iterable[Frame], settings: Settings, region: Mask | None) -> Iterator[Frame]:
    """The frames, each with the proportions of the region of interest.

    Raises:
        BackdropError: of the first one that has others.
    """
    for frame in frames:
        if region is not None and settings.roi is not None:
            size, name = (frame.image.shape[1], frame.image.shape[0]), f"{frame.number} of {show(source.path)}"
            fits_frame(region, size, f"--roi {show(settings.roi.of(source.path))}", name)
        yield frame


def _pass_over(progress: tqdm, count: int) -> None:
    """Frames that were segmented before: they are done, and say nothing of how fast it goes."""
    progress.initial += count
    progress.n += count
    progress.last_print_n += count
    progress.refresh()


def other_settings(job: Job, sources: Sequence[Source]) -> str:
    """In which settings the records of these sources in `job.out` differ from the job's; "" where they do not."""
    found: dict[str, str] = {}
    for source in sources:
        before, now = first_header(records_path(job.out, source)), job.settings.header(source)
        for key in Settings._fields:
            if key in before and before[key] != now[key]:
                found[key] = f"{key} {before[key]}, now {now[key]}" if key in _SHOWN else f"another {key}"
    return ", ".join(found.values())


_SHOWN = ("threshold", "every", "min_confidence", "instances")
"""Settings that say something to a person; of others it is said that they differ."""


def _ending(source: Source, tally: Tally, header: Mapping[str, Any]) -> Ending:
    if not source.video:
        return Ending()
    info, size = probe(source.path), source.path.stat().st_size
    found = damage(info, tally)
    if size != header["bytes"]:
        found = "; ".join(filter(None, (found, _GREW.format(kind="grew" if size > header["bytes"] else "shrank"))))
    return Ending(end_of_video(info, tally), found)


_GREW = (
    "it {kind} while it was read, and the frames up to then are kept; run the same command again when it is complete, "
    "or read it as it grows: tail -c +1 -f FILE | backdrop predict - -o OUT"
)
"""Of a file that another program still writes."""


def _not_done(frames: Iterator[Frame], done: Sequence[Record], tracker: SubjectTracker | None) -> Iterator[Frame]:
    """The frames that have no record. The tracker sees those that have one."""
    records = {record.frame: record for record in done}
    for frame in frames:
        record = records.get(frame.number)
        if record is None:
            yield frame
        elif tracker is not None:
            tracker.follow(frame.image, record.labels())


def described(found: Found, settings: Settings, tracker: SubjectTracker | None, region: Mask | None) -> Record:
    """The record of the next frame as it comes: subjects are told apart by the frames before it alone."""
    mask = _mask(found, settings, region)
    if tracker is None:
        return record_of(found, mask)
    labels = tracker.divide_next(_to_tell(found, mask, tracker)).labels
    return record_of(found, mask, parts_of(found.prediction, labels))


def _described(
    segmented: Iterator[Found], settings: Settings, tracker: SubjectTracker | None, region: Mask | None
) -> Iterator[tuple[Found, Record]]:
    """The frames with their records. Subjects are told apart by the frames before and behind."""
    if tracker is None:
        for found in segmented:
            yield found, described(found, settings, None, region)
        return
    waiting: deque[tuple[Found, Mask]] = deque()

    def frames() -> Iterator[FrameToTell]:
        for found in segmented:
            mask = _mask(found, settings, region)
            waiting.append((found, mask))
            yield _to_tell(found, mask, tracker)

    for labels in told_apart(frames(), tracker):
        found, mask = waiting.popleft()
        yield found, record_of(found, mask, parts_of(found.prediction, labels))


def _to_tell(found: Found, mask: Mask, tracker: SubjectTracker) -> FrameToTell:
    """What is needed to divide a mask among its subjects."""
    prediction = found.prediction
    boxes = chosen_boxes(prediction, mask, tracker.count)
    return FrameToTell(found.frame.image, prediction.mask, mask, boxes)  # type: ignore[arg-type]


def _mask(found: Found, settings: Settings, region: Mask | None) -> Mask:
    """(H, W) bool, True = foreground."""
    prediction = found.prediction
    if prediction.presence < settings.min_confidence:
        return np.zeros(prediction.mask.shape, bool)
    if settings.crf is None:
        return within_region(prediction.mask > settings.threshold, region)
    box = best_finding(prediction.box, prediction.p)
    refined = refine(found.frame.image, prediction.mask, settings.threshold, settings.crf, box)  # type: ignore[arg-type] # a Literal
    return within_region(refined, region)  # the CRF may reach beyond it


def rename_results(out: Path, sources: Sequence[Source]) -> None:
    """Give the results of files that now have other names, because of other inputs beside them, these names."""
    recorded = recorded_names(out)
    for source in sources:
        for name in recorded.get(os.path.abspath(source.path), []):
            if source.fault or name == source.name:
                continue
            old, new = source._replace(name=name), records_path(out, source)
            if new.exists():
                Pictures(out, old, ()).remove()
                records_path(out, old).unlink()
            else:
                new.parent.mkdir(parents=True, exist_ok=True)
                records_path(out, old).rename(new)
                Pictures(out, old, ()).rename(source.name)


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
    with writing(job.out):
        rename_results(job.out, sources)
    others = other_settings(job, sources)
    if others and not quiet:
        tqdm.write(f"{show(job.out)} holds results of other settings ({others}): they are made anew", file=sys.stderr)
    expected = [_expected_frames(source, job.settings.every) for source in sources]
    with tqdm(total=sum(expected), desc="segmenting", unit="frame", disable=quiet) as bar:
        for number, source in enumerate(sources):
            before = bar.n
            bar.set_postfix_str(f"{show(source.path.name)[-40:]}, file {number + 1} of {len(sources)}")
            try:
                predict_source(job, source, None if quiet else bar)
            except WriteError:
                raise
            except BackdropError as fault:
                faults.append((source, fault))
            bar.total += bar.n - before - expected[number]  # what a file says of itself may be wrong
    return faults


def _expected_frames(source: Source, every: int) -> int:
    """How many frames a source will give, by what it says of itself; 0: not known."""
    if source.fault:
        return 0
    if not source.video:
        return 1
    try:
        info = probe(source.path)
    except BackdropError:
        return 0
    return ceil((info.declared_frames or round((info.duration_s or 0.0) * info.fps)) / every)


def identity(model: Path) -> str:
    """A hash of the weights: records of another model are made anew."""
    return content_hash(model / "model.safetensors")[:16]
