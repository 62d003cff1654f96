"""Export video: each video with its masks drawn in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from backdrop.app.exports.common import Faults, Recorded, each_source
from backdrop.app.pictures import draw_record
from backdrop.app.reader import frames_of
from backdrop.app.records import Records, is_changed
from backdrop.app.sources import Source
from backdrop.errors import BackdropError
from backdrop.frames.layouts.listing import warn
from backdrop.io.files import show
from backdrop.video.decode import probe
from backdrop.video.redraw import redraw_video


def write_video(found: Sequence[Recorded], folder: Path, faults: Faults | None = None) -> list[Path]:
    """Write <folder>/video/<name>.mp4: each video with its masks drawn in. Images are left out.

    Times, colors, the shape of pixels and the sound are the video's own. Sound that is missing is said on stderr.

    Raises:
        BackdropError: there is no video among the sources. Without `faults`, too: one is no longer where it was, or has
            changed.
    """
    videos = [(source, records) for source, records in found if source.video]
    if not videos:
        raise BackdropError("format video is for videos; for images take overlay")
    return list(each_source(videos, faults, partial(_write_drawn, folder)))


def _write_drawn(folder: Path, source: Source, records: Records) -> Path:
    path = folder / "video" / f"{source.name}.mp4"
    if is_changed(records):
        raise BackdropError(f"{show(source.path)} has changed since; run the same `backdrop predict` again")
    times = [*(record.time for record in records.frames), records.ending.end]
    lost = redraw_video(path, _drawn_frames(source, records), times, probe(source.path))
    if lost:
        warn(f"{show(path)}: not all sound of {show(source.path)} is in it ({lost})")
    return path


def _drawn_frames(source: Source, records: Records) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    frames = frames_of(source, int(records.header["every"]))
    for record in records.frames:
        frame = next((frame for frame in frames if frame.number == record.frame), None)
        if frame is None:
            raise BackdropError(
                f"{show(source.path)} is not the video that was segmented; run the same `backdrop predict` again"
            )
        picture = draw_record(frame.image, record)
        yield picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]  # H.264 holds even sides only
