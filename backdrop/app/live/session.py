"""One reading of a live source, from its first frame until it ends, drops out, or is stopped."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import typer
from tqdm import tqdm

from backdrop.app.commands import SOME_FAILED, name_faults, say_results, warn_of_damage
from backdrop.app.exports import FORMATS, export_all
from backdrop.app.exports.common import recorded
from backdrop.app.live.feed import Feed
from backdrop.app.live.film import Film
from backdrop.app.live.inputs import LiveInput
from backdrop.app.pictures import Pictures, draw_record
from backdrop.app.predict import Job, alone_in, described, fitting
from backdrop.app.reader import Found
from backdrop.app.records import LIVE, Ending, Records, appended_records, records_path
from backdrop.app.sources import Source
from backdrop.crf.instance.tracking import SubjectTracker
from backdrop.errors import BackdropError, WriteError
from backdrop.io.files import show
from backdrop.video.live import Live

NEED_FRAMES = ("cutout", "alpha", "background", "labelstudio-video")
"""Formats that read the frames again."""

DRAWN = "video"
"""The format that is written while frames come, and from records elsewhere."""


class Session(NamedTuple):
    """How a reading went.

    frames: with a mask, how many. dropped: those that came while the networks were busy, and were passed over.
    fault: why it broke off; None: it did not. stopped: somebody ended it.
    """

    frames: int
    dropped: int
    fault: BackdropError | None
    stopped: bool


def predict_live(job: Job, live: LiveInput, chosen: Sequence[str], quiet: bool) -> int:
    """Segment a live source until its end, write the formats, say how it went, and return the exit status.

    Args:
        chosen: formats. quiet: errors only.

    Raises:
        BackdropError: a format needs the frames again, the source cannot be opened, or gave not one frame.
        WriteError: the disk takes no more. What was written stays.
    """
    again = [name for name in chosen if name in NEED_FRAMES]
    if again:
        raise BackdropError(
            f"--format {again[0]} reads the frames again, and nothing keeps those of {live.label}: record it to a file "
            "first, or take masks, overlay, npz, video, coco, davis, yolo, labelstudio, csv or cvat"
        )
    opened = live.opened()
    with alone_in(job.out):
        source = live.source(job.out)
        session = _segment_live(job, live, source, opened, drawn=DRAWN in chosen, quiet=quiet)
        if session.stopped and not session.frames:
            print(f"stopped before {live.label} gave a frame; nothing is written", file=sys.stderr)
            return 130
        if not session.frames:
            why = session.fault or f"{live.label} gave not one frame"
            raise BackdropError(f"{why}; nothing is written")
        where = f"{session.frames} frames are kept as {source.name} in {show(job.out)}"
        if session.fault:
            name_faults([BackdropError(f"{session.fault}; {where}; run the same command again to go on")])
        ready = recorded(job.out, {source.name})
        damaged = not session.fault and warn_of_damage(ready)
        _, left_out = export_all(ready, job.out, [name for name in chosen if name in FORMATS and name != DRAWN])
        name_faults(left_out)
    if session.stopped:
        print(f"stopped; {where}", file=sys.stderr)
    if not quiet:
        say_results(ready, f"in {job.out} as {source.name} (threshold {job.settings.threshold:g}): {', '.join(chosen)}")
        if session.dropped:
            typer.echo(
                f"{session.dropped} of {session.frames + session.dropped} frames were dropped: they came while the "
                "networks were busy"
            )
    if session.stopped:
        return 130
    return SOME_FAILED if session.fault or left_out or damaged else 0


def _segment_live(job: Job, live: LiveInput, source: Source, opened: Live, *, drawn: bool, quiet: bool) -> Session:
    """Segment the frames as they come. Their records and pictures are written before the next ones are taken."""
    settings = job.settings
    region = None if settings.roi is None else settings.roi.region(Path(live.name))
    feed = Feed(opened, settings.every, job.batch)
    tracker = None if settings.instances is None else SubjectTracker(settings.instances)
    pictures, path = Pictures(job.out, source, job.pictures), job.out / DRAWN / f"{source.name}.mp4"
    header = settings.header(source._replace(path=Path(live.name))) | {"source": live.label, LIVE: True}
    count, fault = 0, None

    def ending() -> Ending:
        end, damage = opened.ending()
        return Ending(end, str(feed.fault or fault or damage))

    with ExitStack() as stack:
        stack.callback(feed.close)
        stopped = stack.enter_context(_stopped_by_signals(feed))
        batches = feed.batches()
        first = next(batches, None)
        if first is None:
            return Session(0, 0, feed.fault, bool(stopped))
        append = stack.enter_context(
            appended_records(records_path(job.out, source), Records(header, [], False), ending)
        )
        film = stack.enter_context(Film(path)) if drawn else None
        bar = stack.enter_context(tqdm(desc=f"segmenting {live.label}", unit="frame", disable=quiet))
        try:
            for together in _chained(first, batches):
                frames = list(fitting(source, together, settings, region))
                found = job.segmenter.predict_batch([frame.image for frame in frames], settings.instances, region)
                for one in map(Found, frames, found):
                    record = described(one, settings, tracker, region)
                    pictures.write(one, record)
                    append(record)
                    if film is not None:
                        film.add(draw_record(one.frame.image, record), record.time)
                    count += 1
                    bar.update()
                if feed.dropped:
                    bar.set_postfix_str(f"{feed.dropped} dropped")
        except WriteError:
            raise
        except BackdropError as found_fault:
            fault = found_fault
    return Session(count, feed.dropped, feed.fault or fault, bool(stopped))


def _chained(first: list, rest: Iterator[list]) -> Iterator[list]:
    yield first
    yield from rest


@contextmanager
def _stopped_by_signals(feed: Feed) -> Iterator[Collection[int]]:
    """In the block, Ctrl-C and a request to end let the frames in work be finished. A second one is as elsewhere.

    Yields:
        The signals that came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only it is given signals
        yield came
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def stop(kind: int, _: object) -> None:
        came.append(kind)
        feed.stop()
        signal.signal(kind, before[signal.Signals(kind)])

    for kind in before:
        signal.signal(kind, stop)
    try:
        yield came
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
