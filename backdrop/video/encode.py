"""Encoding video files with PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path, libav_url, show

_CODECS = {"h264": "libx264", "mpeg4": "mpeg4", "mjpeg": "mjpeg"}


def encode_video(
    path: Path | str,
    frames: Iterable[np.ndarray],
    fps: float | int = 24.0,
    codec: str = "h264",
    *,
    quality: int = 90,
    times: Sequence[float] | None = None,
    rotation: int = 0,
) -> None:
    """Write RGB frames as a video file whose suffix names the container; atomic, and the same bytes each time.

    Args:
        path: .mp4, .mov, .mkv or .avi.
        frames: (H, W, 3) uint8, all of one size, consumed one at a time.
        fps: frames per second.
        codec: h264, mpeg4 (part 2) or mjpeg.
        quality: 1..100; 100 is the encoder's best.
        times: seconds of each frame, increasing, for a variable frame rate (not in .avi).
        rotation: degrees counterclockwise by which players turn the stored frames (.mp4, .mov).

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
        base = Fraction(1, 1000) if times is not None else 1 / stream.codec_context.framerate
        stream.codec_context.time_base = base
        for t, image in enumerate(chain([first], iterator)):
            if image.shape != first.shape:
                raise BackdropError(f"frame {t} for {show(path)} is {image.shape}, the first one {first.shape}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = t if times is None else round(times[t] * 1000)
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


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
