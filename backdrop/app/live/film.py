"""A video that is written while its frames come, and that can be played up to where it was cut off."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from jaxtyping import UInt8

from backdrop.errors import BackdropError
from backdrop.io.files import libav_url, show, writing
from backdrop.video.color import ColorTags, encoded_yuv

TICK = Fraction(1, 1000)
"""Seconds in which times are counted."""


class Film:
    """An MP4 in H.264 that grows as frames come, in fragments of a second or two: one that is killed can be played.

    Args:
        path: the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container: Any = None
        self._stream: Any = None
        self._color = ColorTags()
        self._last = -1

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> None:
        if self._container is None:
            return
        with writing(self._path):
            try:
                if kind is None:
                    self._container.mux(self._stream.encode())
            finally:
                self._container.close()

    def add(self, image: UInt8[np.ndarray, "H W 3"], time: float) -> None:
        """Append a frame, shown at `time` in seconds. The last row and column of odd sizes are left out.

        Raises:
            WriteError: the disk takes no more.
            BackdropError: the frame is of another size than the first one.
        """
        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        with writing(self._path):
            if self._container is None:
                self._begin(image)
            if image.shape[:2] != (self._stream.height, self._stream.width):
                raise BackdropError(
                    f"frames have changed their size to {image.shape[1]}x{image.shape[0]}, which {show(self._path)} "
                    "cannot hold; run the same command again"
                )
            frame = encoded_yuv(image, "yuv420p", self._color)
            self._last = frame.pts = max(self._last + 1, round(time / TICK))
            frame.time_base = TICK
            self._container.mux(self._stream.encode(frame))

    def _begin(self, image: np.ndarray) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        movflags = "+frag_keyframe+empty_moov+default_base_moof"
        self._container = av.open(libav_url(self._path), "w", options={"movflags": movflags, "flush_packets": "1"})
        self._stream = self._container.add_stream("libx264", rate=25)
        self._stream.height, self._stream.width = image.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        # as `encode_video` at a quality of 80: what is on disk within a second must be written within it
        self._stream.options = {"crf": "10.3", "preset": "veryfast", "tune": "zerolatency"}
        context = self._stream.codec_context
        context.time_base, context.gop_size, context.thread_count = TICK, 30, 1
        context.flags |= Flags.global_header
        self._color = ColorTags().complete(image.shape[0])
        context.colorspace, context.color_range = self._color.matrix, 1
        context.color_primaries, context.color_trc = self._color.primaries, self._color.transfer
