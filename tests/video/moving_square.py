"""A gray square that moves by two pixels a frame, in files of many kinds; where it is in each frame is known."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec.context import Flags
from PIL import Image

from backdrop.frames.extract import extract_sequence
from backdrop.frames.layouts.listing import Sequence as Listed
from backdrop.io.frame_archive import FrameArchive

COUNT, WIDTH, HEIGHT = 20, 64, 48

INTERLACED = Flags.interlaced_dct | Flags.interlaced_me

X265 = {"x265-params": "log-level=none:open-gop=1:keyint=8"}

VARIABLE = np.cumsum([0, *np.random.default_rng(1).choice([0.017, 0.033, 0.05, 0.2, 0.6], COUNT - 1)]).round(3).tolist()
"""Seconds at which frames are shown, as a phone or a browser records them."""


class Kind(NamedTuple):
    """How a file is made.

    times: seconds of each frame; None: at a constant `rate`. settings: of the codec context.
    """

    name: str
    codec: str
    pixels: str = "yuv420p"
    rate: Fraction | int = 25
    times: Sequence[float] | None = None
    options: dict[str, str] = {}  # noqa: RUF012 - never changed
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    container: str | None = None

    def seconds(self) -> list[float]:
        return list(self.times) if self.times is not None else [float(t / self.rate) for t in range(COUNT)]


def square_at(t: int) -> np.ndarray:
    """(H, W) bool: the pixels of the square in frame t."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[16:32, 4 + 2 * t : 20 + 2 * t] = True
    return mask


def square_frames(count: int = COUNT) -> list[np.ndarray]:
    return [np.where(square_at(t)[..., None], 200, 60).repeat(3, axis=2).astype(np.uint8) for t in range(count)]


def write_square(folder: Path, kind: Kind) -> Path:
    """Make the file, with PyAV's own encoders and muxers."""
    path = folder / kind.name
    tick = 1 / Fraction(kind.rate) if kind.times is None else Fraction(1, 1000)
    with av.open(str(path), "w", format=kind.container) as container:
        stream = container.add_stream(kind.codec, rate=kind.rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, kind.pixels, dict(kind.options)
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = tick
        for name, value in kind.settings.items():
            setattr(stream.codec_context, name, value)
        for t, image in enumerate(square_frames()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = t if kind.times is None else round(kind.times[t] * 1000)
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_masks(folder: Path, count: int = COUNT) -> dict[int, Path]:
    """The masks of all frames as files, by number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {t: folder / f"{t:06d}.png" for t in range(count)}
    for t, path in paths.items():
        Image.fromarray(square_at(t).astype(np.uint8) * 255).save(path)
    return paths


def overlap(image: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of the square that is seen in an image, and a mask."""
    seen = image[..., 0] > 130
    return (seen & mask).sum() / (seen | mask).sum()


def extracted(path: Path, masks: dict[int, Path], out: Path, threads: int = 1) -> tuple[dict[str, Any], FrameArchive]:
    """What the stage frames makes of a video with its masks: the row of the index, and the archive."""
    row = extract_sequence(Listed("square", path.name, video=path, masks=masks), out, threads=threads)
    return row, FrameArchive(out / "square.zip")
