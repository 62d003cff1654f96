"""Export video: each video with its masks drawn in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from backdrop.app.exports.common import (
    DEFAULTS,
    ExportChoices,
    Faults,
    Recorded,
    check_kept,
    each_source,
    frames_with_records,
)
from backdrop.app.pictures import draw_record
from backdrop.app.records import Records
from backdrop.app.sources import Source
from backdrop.errors import BackdropError
from backdrop.frames.layouts.listing import warn
from backdrop.io.files import show
from backdrop.video.decode import probe
from backdrop.video.redraw import redraw_video


def write_video(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/video/<name>.mp4: each video with its masks drawn in. Images are left out.

    Times, colors, the shape of pixels and the sound are the video's own. Sound that is missing is said on stderr.

    Raises:
        BackdropError: there is no video among the sources. Without `faults`, too: one is no longer where it was, or has
            changed.
    """
    return list(each_source(only_videos(found, "video", "overlay"), faults, partial(_write_drawn, folder)))


def only_videos(found: Sequence[Recorded], format_: str, instead: str) -> list[Recorded]:
    """The videos among the sources.

    Raises:
        BackdropError: there is none. It names the format, and another one for images.
    """
    videos = [(source, records) for source, records in found if source.video]
    if not videos:
        raise BackdropError(f"format {format_} is for videos; for images take {instead}")
    return videos


def _write_drawn(folder: Path, source: Source, records: Records) -> Path:
    check_kept(source, records)
    path = folder / "video" / f"{source.name}.mp4"
    drawn = (draw_record(image, record) for image, record in frames_with_records(source, records))
    write_like(path, drawn, source, records)
    return path


def write_like(path: Path, pictures: Iterator[UInt8[np.ndarray, "H W 3"]], source: Source, records: Records) -> None:
    """Write pictures of a video's frames as an MP4 that is otherwise as the video. Missing sound is said on stderr.

    Raises:
        BackdropError: pictures of mixed sizes, or the video cannot be read.
    """
    even = (one[: one.shape[0] // 2 * 2, : one.shape[1] // 2 * 2] for one in pictures)  # H.264 holds even sides only
    times = [*(record.time for record in records.frames), records.ending.end]
    lost = redraw_video(path, even, times, probe(source.path))
    if lost:
        warn(f"{show(path)}: not all sound of {show(source.path)} is in it ({lost})")
