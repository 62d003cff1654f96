"""Encoding video files with PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
from av.codec.context import Flags

from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path, libav_url, show
from backdrop.video.color import ColorTags, encoded_yuv

_CODECS = {"h264": "libx264", "mpeg4": "mpeg4", "mjpeg": "mjpeg"}


@runtime_checkable
class Track(Protocol):
    """What is written beside the frames."""

    def open(self, container: Any) -> None:
        """Add its streams to a container, before anything is written."""

    def write(self, until: float | None) -> None:
        """Write what comes before `until`, in seconds; None: the rest."""


@dataclass(frozen=True)
class Presentation:
    """How a video is shown.

    Attributes:
        times: seconds of each frame from 0, increasing, and after them when the last one ends.
        tick: seconds in which the file counts time.
        aspect: width of a pixel over its height.
        color: what the numbers of a frame shall mean; from `ColorTags.complete`.
        sound: written beside the frames.
    """

    times: Sequence[float]
    tick: Fraction = Fraction(1, 1000)
    aspect: Fraction = Fraction(1)
    color: ColorTags | None = None
    sound: Track | None = None

    def ticks(self) -> Iterator[tuple[int, int]]:
        """Time stamp and length of each frame. Two frames never have one time stamp."""
        now = -1
        for time, after in zip(self.times, self.times[1:], strict=False):
            now = max(now + 1, round(time / self.tick))
            yield now, max(1, round(after / self.tick) - now)


def encode_video(
    path: Path | str,
    frames: Iterable[np.ndarray],
    fps: float | int = 24.0,
    codec: str = "h264",
    *,
    quality: int = 90,
    rotation: int = 0,
    shown: Presentation | None = None,
) -> None:
    """Write RGB frames as a video file whose suffix names the container; atomic, and the same bytes each time.

    Args:
        path: .mp4, .mov, .mkv or .avi.
        frames: (H, W, 3) uint8, all of one size, consumed one at a time.
        fps: frames per second; of a variable rate the average.
        codec: h264, mpeg4 (part 2) or mjpeg.
        quality: 1..100; 100 is the encoder's best.
        rotation: degrees counterclockwise by which players turn the stored frames (.mp4, .mov).
        shown: how. By default at a constant rate, silent, with square pixels, and with colors that the file does not
            name. A variable rate is not for .avi.

    Raises:
        BackdropError: unknown codec or container, no frames, frames of mixed sizes.
    """
    path = Path(path)
    if codec not in _CODECS or path.suffix.lower() not in (".mp4", ".mov", ".mkv", ".avi"):
        raise BackdropError(
            f"cannot encode {show(path)} with codec {codec}: codecs are {', '.join(_CODECS)}, "
            "containers .mp4, .mov, .mkv, .avi"
        )
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise BackdropError(f"no frames to encode into {show(path)}")
    with atomic_path(path) as temporary, _muxer(temporary) as container:
        stream = _add_stream(container, first, fps, codec, quality)
        if rotation:
            stream.set_display_rotation(rotation)
        base = 1 / stream.codec_context.framerate if shown is None else shown.tick
        sound = None if shown is None else shown.sound
        if shown is not None:
            _describe(stream, shown)
        if sound is not None:
            sound.open(container)
        stream.codec_context.time_base = base
        for frame in _encodable(path, chain([first], iterator), stream, shown):
            frame.time_base = base
            if sound is not None:
                sound.write(float(frame.pts * base))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            sound.write(None)


def _encodable(path: Path, images: Iterable[np.ndarray], stream: Any, shown: Presentation | None) -> Iterator[Any]:
    """The frames as the encoder takes them."""
    stamps = None if shown is None else shown.ticks()
    size = (stream.height, stream.width, 3)
    for t, image in enumerate(images):
        if image.shape != size:
            raise BackdropError(f"frame {t} for {show(path)} is {image.shape}, the first one {size}")
        if shown is None or shown.color is None:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        else:
            frame = encoded_yuv(image, stream.pix_fmt, shown.color)
        frame.pts = t
        if stamps is not None:
            frame.pts, frame.duration = next(stamps)
        yield frame


def _describe(stream: Any, shown: Presentation) -> None:
    context = stream.codec_context
    # MP4 keeps times of decoding. With frames in one order these are the times of showing, and lengths are kept.
    context.flags |= Flags.frame_duration
    context.max_b_frames = 0
    if shown.aspect != 1:
        stream.sample_aspect_ratio = context.sample_aspect_ratio = shown.aspect
    if shown.color is not None:
        context.colorspace, context.color_range = shown.color.matrix, 1
        context.color_primaries, context.color_trc = shown.color.primaries, shown.color.transfer


def _muxer(path: Path) -> Any:
    # faststart puts the index first, so that a file cut off in transfer can still be read up to the cut;
    # bitexact leaves out dates and versions.
    options = {"fflags": "+bitexact"}
    if path.suffix.lower() in (".mp4", ".mov"):
        options["movflags"] = "+faststart"
    return av.open(libav_url(path), "w", options=options)


def _add_stream(container: Any, image: np.ndarray, fps: float | int, codec: str, quality: int) -> Any:
    height, width = image.shape[:2]
    stream = container.add_stream(_CODECS[codec], rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height = width, height
    stream.codec_context.thread_count = 1  # x264's bytes depend on the number of threads
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    loss = (100 - quality) / 99
    if codec == "h264":
        # 4:2:0 halves both sides, which odd sizes do not allow in H.264
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        # x264's macroblock tree reads memory that it has not written: the same frames then give several files
        stream.options = {"crf": f"{51 * loss:.1f}", "preset": "veryfast", "x264-params": "mbtree=0"}
    else:
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        scale = str(round(2 + 29 * loss))
        stream.options = {"qmin": scale, "qmax": scale}
    return stream
