"""Segmenting the file that was dropped on the page, and what a session keeps of it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backdrop.app.reader import Found, Frame, find_subjects, frames_of
from backdrop.app.segmenter import Segmenter
from backdrop.app.sources import Source, find_sources
from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter
from backdrop.io.files import show
from backdrop.io.images import decode_image, encode_jpeg, encode_png
from backdrop.io.masks import entry
from backdrop.networks.predictor import Prediction
from backdrop.video.decode import Tally, VideoInfo, damage, end_of_video, probe

BATCH = 4
"""Frames of a video that are segmented together; twice as many are in memory."""

FRAMES, MOST = 120, 1000
"""How many frames of a video are taken, unless asked otherwise; how many can be asked for."""

Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all). The second is a guess where the file does not declare it."""


class SegmentedVideo:
    """The segmented frames of a video, read from an archive on disk one at a time. Soft masks have 8 bits.

    Args:
        path: an archive of <t>.jpg, the frames, and <t>.png, the soft masks.
        stamps: number in the file and seconds of each frame.
        predictions: of each frame. Their masks are not read.
    """

    def __init__(self, path: Path, stamps: Sequence[tuple[int, float]], predictions: Sequence[Prediction]) -> None:
        self.path, self.stamps, self.predictions = path, stamps, predictions

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, t: int) -> Found:
        with zipfile.ZipFile(self.path) as archive:
            image, soft = (decode_image(archive.read(name)) for name in (_jpeg(t), entry(t)))
        prediction = self.predictions[t]._replace(mask=soft[:, :, 0].astype(np.float32) / np.float32(255))
        return Found(Frame(*self.stamps[t], image), prediction)

    def __iter__(self) -> Iterator[Found]:
        return (self[t] for t in range(len(self)))


class SegmentedFile(NamedTuple):
    """A segmented file, as a session keeps it.

    folder: holds what belongs to it.
    frames: of the file; one, if it is an image.
    surest: index of the frame whose mask is surest. It is shown first.
    info: what a video says about itself; None: an image.
    end: when its last frame that is kept ends, in seconds since the first.
    fault: what is missing in the file, or "".
    cut: whether the video has more frames than were asked for.
    """

    source: Source
    folder: Path
    frames: SegmentedVideo | list[Found]
    surest: int = 0
    info: VideoInfo | None = None
    end: float = 0.0
    fault: str = ""
    cut: bool = False


def segment_file(
    segmenter: Segmenter,
    path: Path,
    folder: Path,
    *,
    every: int = 1,
    most: int = FRAMES,
    progress: Progress | None = None,
) -> SegmentedFile:
    """Segment an image, or the first frames of a video. Memory does not grow with the number of frames.

    Args:
        folder: exists. Frames and soft masks of a video are written there.
        every: frames 0, every, 2 every, ... of a video.
        most: how many of these.

    Raises:
        BackdropError: the file is neither image nor video, or cannot be read; the message names it.
    """
    (source,) = find_sources([path])
    if path.stat().st_size == 0:
        raise BackdropError(f"{show(path)} is empty (0 bytes); choose another file")
    if not source.video:
        (frame,) = frames_of(source)
        return SegmentedFile(source, folder, [Found(frame, segmenter.predict(frame.image))])
    info, tally = probe(path), Tally()
    frames = frames_of(source, every, tally)
    total = min(most, math.ceil((info.declared_frames or most * every) / every))
    clip = _segment_clip(segmenter, islice(frames, most), folder / "frames.zip", progress, total)
    after = next(frames, None)  # read on: only at the end of the file is it known what is missing
    end = end_of_video(info, tally) if after is None else after.time
    surest = int(np.argmax([prediction.presence for prediction in clip.predictions]))
    return SegmentedFile(source, folder, clip, surest, info, end, damage(info, tally), after is not None)


def _segment_clip(
    segmenter: Segmenter, frames: Iterator[Frame], path: Path, progress: Progress | None, total: int
) -> SegmentedVideo:
    stamps: list[tuple[int, float]] = []
    predictions: list[Prediction] = []
    nothing = np.zeros((0, 0), np.float32)
    with ArchiveWriter(path) as archive:
        for frame, prediction in find_subjects(segmenter, frames, BATCH):
            archive.add(_jpeg(len(stamps)), encode_jpeg(frame.image))
            archive.add(entry(len(stamps)), encode_png(np.rint(prediction.mask * 255).astype(np.uint8)))
            stamps.append((frame.number, frame.time))
            predictions.append(prediction._replace(mask=nothing))
            if progress is not None:
                progress(len(stamps), max(total, len(stamps)))
    return SegmentedVideo(path, stamps, predictions)


def _jpeg(t: int) -> str:
    return f"{t:06d}.jpg"
