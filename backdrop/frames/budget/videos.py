"""Frames on a budget: all videos are looked through, bursts are drawn and stored, the rest is read where it lies."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from tqdm import tqdm

from backdrop.errors import BackdropError, WriteError
from backdrop.frames.budget.choice import Burst, choose_bursts
from backdrop.frames.budget.watch import BURST, GRAY_WIDTH, Offer, Watcher
from backdrop.frames.extract import (
    FrameFormat,
    Reading,
    SourceFrame,
    frame_name,
    index_row,
    require_size,
    require_two,
    store_frames,
    unique_frame_names,
)
from backdrop.frames.layouts.listing import Sequence, skipped_row
from backdrop.frames.regions import RegionSource
from backdrop.frames.truth import MaskSource
from backdrop.io.archives import ArchiveWriter
from backdrop.io.files import show
from backdrop.io.frame_archive import REGION, frames_table
from backdrop.io.images import RGB, Gray, decode_image, encode_jpeg, encode_png, resize
from backdrop.run.processes import each
from backdrop.video.decode import Tally, decode_lazily, probe
from backdrop.video.decoded import Decoded
from backdrop.video.streamed import SOURCE, source_entry, total_bytes

PREVIEWS = 12
"""At least so many frames of a video, spread over it, are stored for people to look at; at most twice as many."""


@dataclass(frozen=True)
class Budget:
    """How many frames there are to be trained on, and who stores them where.

    Attributes:
        frames: at most so many are drawn.
        folder: of the archives.
        form: how frames are stored.
        workers: processes. threads: of each, for decoding.
    """

    frames: int
    folder: Path
    form: FrameFormat
    workers: int
    threads: int

    def look_through(self, sequences: list[Sequence]) -> tuple[list[dict[str, Any]], dict[str, list[Offer]]]:
        """See what all videos have to offer, in one pass over each. Of each that is not for training alone, write an
        archive without its frames (`video.streamed`).

        Returns:
            Rows as of the index; and of sequences that may be trained on, the bursts that they offer.
        """
        limit = self.frames // BURST + 1
        tasks = [(sequence, self.folder, self.form, limit, self.threads) for sequence in sequences]
        seen = tqdm(each(_watch_or_skip, tasks, self.workers), total=len(tasks), desc="looking", unit="sequence")
        rows, offers = [], {}
        for row, found in seen:
            rows.append(row)
            if row["split"] in ("train", "all") and found:
                offers[row["sequence"]] = found
        return rows, offers

    def draw(
        self, sequences: list[Sequence], rows: list[dict[str, Any]], offers: dict[str, list[Offer]]
    ) -> list[dict[str, Any]]:
        """Draw bursts, and store each as a sequence of its own, named after its video and numbered. Their rows."""
        drawn = choose_bursts(offers, self.frames)
        known = {row["sequence"]: row for row in rows}
        chosen = [sequence for sequence in sequences if sequence.name in drawn]
        tasks = [(sequence, self.folder, self.form, drawn[sequence.name], self.threads) for sequence in chosen]
        index = []
        stored = tqdm(each(_store_bursts, tasks, self.workers), total=len(tasks), desc="frames", unit="sequence")
        for sequence, parts in zip(chosen, stored, strict=True):
            row = {**known[sequence.name], "status": "ok", "reason": ""}
            index += [{**row, "sequence": name, "frames": len(masks), "masks": sum(masks)} for name, masks in parts]
        total, count = (sum(row["frames"] for row in some) for some in (rows, index))
        text = f"training sees {count:,} of {total:,} frames, in {len(index)} bursts of {len(chosen)} sequences"
        tqdm.write(f"data.budget: {text}", file=sys.stderr)
        return index


class _ImageFile:
    """An image of a folder, as `Decoded` is of a video."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _image(self) -> RGB:
        return decode_image(self._path)

    @property
    def size(self) -> tuple[int, int]:
        return self._image.shape[1], self._image.shape[0]

    def rgb(self) -> RGB:
        return self._image

    def gray(self, width: int) -> Gray:
        gray = cv2.cvtColor(self._image, cv2.COLOR_RGB2GRAY)
        share = min(1.0, width / gray.shape[1])
        size = (max(1, round(share * gray.shape[1])), max(1, round(share * gray.shape[0])))
        return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


class _Lazy(NamedTuple):
    """A frame of a source whose picture is made when it is asked for."""

    number: int
    time: float
    name: str
    picture: Decoded | _ImageFile


def _lazy_frames(sequence: Sequence, form: FrameFormat, threads: int, tally: Tally) -> Generator[_Lazy, None, None]:
    """The frames that count, by `form.every` and `form.limit`."""
    if sequence.video is not None:
        decoded = decode_lazily(sequence.video, form.every, threads, tally)
        for number, time, picture in itertools.islice(decoded, form.limit):
            yield _Lazy(number, time, f"{number:06d}", picture)
    for number in range(0, len(sequence.images), form.every)[: form.limit]:
        path = sequence.images[number]
        yield _Lazy(number, number / sequence.fps, path.stem, _ImageFile(path))


def _watch_or_skip(
    sequence: Sequence, folder: Path, form: FrameFormat, limit: int, threads: int
) -> tuple[dict[str, Any], list[Offer]]:
    """A sequence's row and bursts; a fault becomes a row without any."""
    try:
        return _watch(sequence, folder, form, limit, threads)
    except WriteError:
        raise  # the fault is the disk's, not the sequence's
    except BackdropError as fault:
        return skipped_row(sequence, fault), []


def _watch(
    sequence: Sequence, folder: Path, form: FrameFormat, limit: int, threads: int
) -> tuple[dict[str, Any], list[Offer]]:
    if sequence.fault:
        raise BackdropError(f"{sequence.source}: {sequence.fault}")
    tally, watcher, table = Tally(), Watcher(limit), _Table(sequence, form)
    info = probe(sequence.video) if sequence.video else None
    files = [sequence.video] if sequence.video else list(sequence.images)
    before = total_bytes(files)
    with ExitStack() as stack:
        masks = stack.enter_context(closing(MaskSource(sequence)))
        frames = stack.enter_context(closing(_lazy_frames(sequence, form, threads, tally)))
        segmented = sequence.split != "train"
        archive = stack.enter_context(ArchiveWriter(folder / f"{sequence.name}.zip")) if segmented else None
        last: int | None = None
        for frame in frames:
            follows = last is None or frame.number == last + form.every
            watcher.add(table.regions.only(frame.picture.gray(GRAY_WIDTH)), follows)
            table.add(frame, masks, archive)
            last = frame.number
        require_two(sequence, len(table.names))
        if total_bytes(files) != before:
            raise BackdropError(
                f"{sequence.source} changed while it was read: wait until it is whole, and run the same command again"
            )
        if archive is not None:
            table.finish(archive, source_entry(sequence.video, sequence.images, form.every, form.size or table.size))
        read = Reading(info, tally, masks.numbers(), table.has_mask, table.size)
    return index_row(sequence, form, read), watcher.offers()


class _Table:
    """What is stored of a video whose frames are not: their names and times, ground truth, and pictures to look at."""

    def __init__(self, sequence: Sequence, form: FrameFormat) -> None:
        self.names: list[str] = []
        self.has_mask: list[bool] = []
        self.size = (0, 0)
        self.regions = RegionSource(sequence)
        self._sequence, self._form = sequence, form
        self._times: list[float] = []
        self._pictures: list[tuple[int, bytes]] = []
        self._stride = 1

    def add(self, frame: _Lazy, masks: MaskSource, archive: ArchiveWriter | None) -> None:
        t, size = len(self.names), frame.picture.size
        name = frame_name(self._sequence, frame.number)
        self.size = self.size if t else size
        require_size(size, self.size, name)
        self.regions.check(size, name)
        mask = self.regions.void(masks.read(frame.number, size, name))
        if archive is not None:
            if mask is not None:
                archive.add(f"masks/{t:06d}.png", encode_png(mask))
            self._see(t, frame)
        self.names.append(frame.name)
        self._times.append(frame.time)
        self.has_mask.append(mask is not None)

    def finish(self, archive: ArchiveWriter, source: bytes) -> None:
        for t, jpeg in self._pictures:
            archive.add(f"images/{t:06d}.jpg", jpeg)
        archive.add("frames.csv", frames_table(unique_frame_names(self.names), self._times, self.has_mask))
        archive.add(SOURCE, source)
        region = self.regions.png(self._form.size or self.size)
        if region is not None:
            archive.add(REGION, region)

    def _see(self, t: int, frame: _Lazy) -> None:
        """Keep every n-th frame, n such that there are `PREVIEWS` to twice as many."""
        if t % self._stride:
            return
        image = resize(frame.picture.rgb(), self._form.size)
        self._pictures.append((t, encode_jpeg(image, self._form.quality)))
        if len(self._pictures) == 2 * PREVIEWS:
            self._pictures, self._stride = self._pictures[::2], 2 * self._stride


def _store_bursts(
    sequence: Sequence, folder: Path, form: FrameFormat, bursts: list[Burst], threads: int
) -> list[tuple[str, list[bool]]]:
    """Write the archive of each burst; its name, and which of its frames have ground truth."""
    result = []
    with closing(MaskSource(sequence)) as masks, closing(_lazy_frames(sequence, form, threads, Tally())) as source:
        numbered = enumerate(source)
        for k, burst in enumerate(bursts):
            name = f"{sequence.name}@{k:03d}"  # no video's own name has an @
            frames = (SourceFrame(one.number, one.time, one.name, one.picture.rgb()) for one in _of(numbered, burst))
            has_mask, _ = store_frames(folder / f"{name}.zip", frames, masks, form, threads)
            result.append((name, has_mask))
    if [len(has_mask) for _, has_mask in result] != [burst.length for burst in bursts]:
        raise BackdropError(f"{show(sequence.source)} changed while it was read: run the same command again")
    return result


def _of(numbered: Iterator[tuple[int, _Lazy]], burst: Burst) -> Iterator[_Lazy]:
    """The frames of a burst, from an iterator that has not come so far. It stays where the burst ends."""
    for t, frame in numbered:
        if t >= burst.start:
            yield frame
        if t >= burst.start + burst.length - 1:
            return
