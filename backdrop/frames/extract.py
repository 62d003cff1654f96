"""Extraction of one sequence into its archive, streaming."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backdrop.errors import BackdropError
from backdrop.frames.layouts.listing import Sequence
from backdrop.frames.names import safe_name
from backdrop.frames.poses import PoseSource
from backdrop.frames.regions import RegionSource
from backdrop.frames.truth import MaskSource
from backdrop.io.archives import ArchiveWriter
from backdrop.io.files import show
from backdrop.io.frame_archive import REGION, frames_table
from backdrop.io.images import RGB, decode_image, encode_jpeg, encode_png, resize
from backdrop.io.masks import Box
from backdrop.io.pose_boxes import POSE_BOXES, encode_pose_boxes
from backdrop.video.decode import Tally, VideoInfo, damage, declared_frames, decode_video, probe


@dataclass(frozen=True)
class FrameFormat:
    """Which frames of a source are stored, and how.

    Attributes:
        size: (width, height) in pixels, without regard to proportions; None: as in the source. Masks are stored at
            the truth's size in any case.
        every: store every n-th frame.
        limit: at most this many frames; None: all.
        quality: JPEG quality, 1..100.
    """

    size: tuple[int, int] | None = None
    every: int = 1
    limit: int | None = None
    quality: int = 95


class SourceFrame(NamedTuple):
    """A decoded frame: its number in the source, seconds since the first frame, its name, (H, W, 3) uint8 RGB."""

    number: int
    time: float
    name: str
    image: RGB


class _Encoded(NamedTuple):
    """What is stored of a frame, the box of its pose, and the (width, height) that it has in the source."""

    time: float
    name: str
    jpeg: bytes
    mask: bytes | None
    box: Box | None
    size: tuple[int, int]


def extract_sequence(
    sequence: Sequence, out_dir: Path | str, form: FrameFormat = FrameFormat(), threads: int = 1
) -> dict[str, Any]:
    """Write `<out_dir>/<name>.zip` of one sequence, streaming, and return its row of the index.

    The row's `fps` is that of the stored frames, `form.every` included.

    Args:
        sequence: from `list_sequences`.
        out_dir: folder of the archive.
        form: which frames are stored, and how.
        threads: for decoding, and for resizing and encoding beside it.

    Raises:
        BackdropError: the sequence cannot be used; nothing is left on disk then.
    """
    if sequence.fault:
        raise BackdropError(f"{sequence.source}: {sequence.fault}")
    tally = Tally()
    info = probe(sequence.video) if sequence.video else None
    decoded = _source_frames(sequence, form.every, threads, tally)
    with closing(MaskSource(sequence)) as masks, closing(decoded) as source:
        frames = _same_size(itertools.islice(source, form.limit), sequence)
        path = Path(out_dir) / f"{sequence.name}.zip"
        has_mask, source_size = store_frames(path, frames, masks, form, threads)
        return index_row(sequence, form, Reading(info, tally, masks.numbers(), has_mask, source_size))


@dataclass(frozen=True)
class Reading:
    """What reading a source to its end has told.

    Attributes:
        info, tally: of a video.
        masks: the frames in the source that have a mask.
        has_mask: of each frame that was read.
        size: (width, height) in the source.
    """

    info: VideoInfo | None
    tally: Tally
    masks: set[int]
    has_mask: list[bool]
    size: tuple[int, int]


def index_row(sequence: Sequence, form: FrameFormat, read: Reading) -> dict[str, Any]:
    """A sequence's row of the index."""
    info, tally = read.info, read.tally
    strays = [n for n in read.masks if info and n >= tally.numbered]
    reason = damage(info, tally) if info else ""
    notes = [text for text in (reason, sequence.note) if text]
    if strays and tally.complete and not reason:
        notes.append(f"masks without a frame: {len(strays)} (first: frame {min(strays)})")
    width, height = form.size or read.size
    return {
        "sequence": sequence.name,
        "split": sequence.split or "all",
        "source": sequence.source,
        "status": "damaged" if reason else "ok",
        "reason": "; ".join(notes),
        "frames": len(read.has_mask),
        "declared_frames": declared_frames(info, tally) if info else len(sequence.images),
        "width": width,
        "height": height,
        "source_width": read.size[0],
        "source_height": read.size[1],
        "fps": round((tally.fps(info.fps) if info else sequence.fps) / form.every, 6),
        "masks": sum(read.has_mask),
    }


def store_frames(
    path: Path, frames: Iterable[SourceFrame], masks: MaskSource, form: FrameFormat, threads: int
) -> tuple[list[bool], tuple[int, int]]:
    """Write the archive; which stored frames have a mask, and the size (width, height) of the source."""
    names, times, has_mask, boxes = [], [], [], []
    poses, regions = PoseSource(masks.sequence), RegionSource(masks.sequence)

    def encode(frame: SourceFrame) -> _Encoded:
        size = (frame.image.shape[1], frame.image.shape[0])
        name = frame_name(masks.sequence, frame.number)
        regions.check(size, name)
        mask = regions.void(masks.read(frame.number, size, name))
        jpeg = encode_jpeg(resize(frame.image, form.size), form.quality)
        return _Encoded(
            frame.time,
            frame.name,
            jpeg,
            None if mask is None else encode_png(mask),
            poses.box(frame.number, size, regions.at(size)),
            size,
        )

    with ThreadPoolExecutor(threads) as pool, ArchiveWriter(path) as archive:
        for t, frame in enumerate(_in_order(pool, encode, frames, 2 * threads)):
            archive.add(f"images/{t:06d}.jpg", frame.jpeg)
            if frame.mask is not None:
                archive.add(f"masks/{t:06d}.png", frame.mask)
            names.append(frame.name)
            times.append(frame.time)
            has_mask.append(frame.mask is not None)
            boxes.append(np.full(4, np.nan) if frame.box is None else frame.box)
            source_size = frame.size
        require_two(masks.sequence, len(names))
        archive.add("frames.csv", frames_table(unique_frame_names(names), times, has_mask))
        if poses.given:
            archive.add(POSE_BOXES, encode_pose_boxes(np.stack(boxes)))
        region = regions.png(form.size or source_size)
        if region is not None:
            archive.add(REGION, region)
    return has_mask, source_size


def require_two(sequence: Sequence, count: int) -> None:
    """Raise a BackdropError where a source has given so few frames that none has a neighbor."""
    if count < 2:
        raise BackdropError(
            f"{sequence.source} gives {count} frame(s) with data.every; at least 2 are needed: "
            "remove it, or lower data.every"
        )


def frame_name(sequence: Sequence, index: int) -> str:
    """A frame of the source for messages."""
    return show(sequence.images[index]) if sequence.images else f"{index} of {sequence.source}"


def _source_frames(sequence: Sequence, every: int, threads: int, tally: Tally) -> Generator[SourceFrame, None, None]:
    """Every n-th frame."""
    if sequence.video is not None:
        for index, time, image in decode_video(sequence.video, every, threads, tally):
            yield SourceFrame(index, time, f"{index:06d}", image)
    for index in range(0, len(sequence.images), every):
        path = sequence.images[index]
        yield SourceFrame(index, index / sequence.fps, path.stem, decode_image(path))


def _same_size(frames: Iterable[SourceFrame], sequence: Sequence) -> Iterator[SourceFrame]:
    first: tuple[int, int] | None = None
    for frame in frames:
        size = (frame.image.shape[1], frame.image.shape[0])
        first = first or size
        require_size(size, first, frame_name(sequence, frame.number))
        yield frame


def require_size(size: tuple[int, int], first: tuple[int, int], name: str) -> None:
    """Raise a BackdropError unless a frame has the size of the first: else no two could be laid over each other."""
    if size != first:
        raise BackdropError(
            f"frame {name} is {size[0]}x{size[1]}, the frames before it are {first[0]}x{first[1]}; frames of one "
            "sequence must have one size: split or resize them"
        )


def _in_order(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """pool.map that takes at most `ahead` items before their results are used: memory stays bounded."""
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def unique_frame_names(names: list[str]) -> list[str]:
    """Frame names that are safe file names, or plain numbers where that would make two of them equal."""
    safe = [safe_name(name) for name in names]
    if all(safe) and len({name.lower() for name in safe}) == len(safe):
        return safe
    return [f"{t:06d}" for t in range(len(names))]
