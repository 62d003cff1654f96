"""Sources that are read once, as they come: a camera, an address on the network, a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import av
import cv2
import numpy as np

from backdrop.errors import BackdropError
from backdrop.io.files import one_line
from backdrop.io.images import MAX_PIXELS, RGB
from backdrop.video.color import ColorTags, frame_color
from backdrop.video.decode import (
    Tally,
    VideoInfo,
    damage,
    declared_duration,
    declared_packets,
    end_of_video,
    frame_rate,
    shown_frames,
    video_track,
)
from backdrop.video.decoded import Decoded, Orientation

PATIENCE_S = 10.0
"""How long an address may say nothing, when it is opened and later, before it counts as gone."""

PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,srtp,rtsp,rtsps,rtmp,rtmps,rtmpt,mmsh,hls,crypto,data,srt"
"""What an address may lead to: no file of this machine, which a playlist could name."""

PIPE = "pipe:0"
"""The standard input, as libav calls it."""


class LiveFrame(NamedTuple):
    """A frame as it came.

    number: how many came before it. time: seconds since the first. picture: gives it, upright (H, W, 3) in RGB.
    """

    number: int
    time: float
    picture: Callable[[], RGB]


@runtime_checkable
class Live(Protocol):
    """An open source.

    waits: it stands still while nobody reads it, so no frame is lost. Else frames that nobody takes in time are gone.
    """

    waits: bool

    def frames(self) -> Generator[LiveFrame, None, None]:
        """All frames, once.

        Raises:
            BackdropError: the source broke off.
        """

    def ending(self) -> tuple[float, str]:
        """When the last frame that came ends, in seconds since the first; and what is missing among them, or ""."""


class AttachedCamera:
    """A camera of this machine, read by OpenCV. Times are those at which frames came.

    Args:
        number: 0 is the first one.

    Raises:
        BackdropError: it cannot be opened.
    """

    waits = False

    def __init__(self, number: int) -> None:
        self._number, self._last, self._count = number, 0.0, 0
        with _silent_opencv():
            self._capture = cv2.VideoCapture(number)
            opened = self._capture.isOpened()
        if not opened:
            raise BackdropError(
                f"camera {number} cannot be opened; is it plugged in, may you read it, and does no other program use "
                "it? The first camera is 0"
            )

    def frames(self) -> Generator[LiveFrame, None, None]:
        """As `Live.frames`: a camera never ends by itself."""
        start: float | None = None
        try:
            while True:
                with _silent_opencv():
                    there, image = self._capture.read()
                now = time.monotonic()
                if not there or image is None:
                    raise BackdropError(f"camera {self._number} {_gave_no_more(self._count, self._last)}")
                start = now if start is None else start
                self._last = now - start
                self._count += 1
                yield LiveFrame(self._count - 1, self._last, lambda image=image: _of_camera(image))  # type: ignore[misc]
        finally:
            self._capture.release()

    def ending(self) -> tuple[float, str]:
        """As `Live.ending`."""
        return self._last + (self._last / (self._count - 1) if self._count > 1 else 0.04), ""


def _of_camera(image: np.ndarray) -> RGB:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


class Stream:
    """Video from the network or through a pipe, read by libav. Numbers and times are as those of a file's frames.

    Args:
        url: an address; or `PIPE`.
        what: what messages call it, without passwords.

    Raises:
        BackdropError: it cannot be opened, or holds no video.
    """

    def __init__(self, url: str, what: str) -> None:
        self._what, self._tally = what, Tally()
        piped = url == PIPE
        self._remedy = _FROM_THE_FRONT if piped else "is something sent there?"
        options = (
            {"protocol_whitelist": "pipe"} if piped else {"protocol_whitelist": PROTOCOLS, "rtsp_transport": "tcp"}
        )
        try:
            patience = None if piped else (PATIENCE_S, PATIENCE_S)
            self._container = av.open(url, options=options, metadata_errors="replace", timeout=patience)
        except (av.error.FFmpegError, UnicodeError, ValueError, OSError) as fault:
            raise BackdropError(_unopened(what, piped, fault)) from None
        self._track = video_track(self._container)
        context = None if self._track is None else self._track.codec_context
        if context is None:
            raise BackdropError(f"{what} holds no video of a known codec")
        if context.width * context.height > MAX_PIXELS:
            raise BackdropError(f"{what} is {context.width}x{context.height}; send at most {MAX_PIXELS} pixels")
        self._fps = frame_rate(self._track)
        self._declared = declared_packets(self._container, self._track)
        self._duration = declared_duration(self._container, self._track, self._declared, self._fps)
        # a recording on a server is sent as fast as it is read; what has no end is sent at its own speed
        self.waits = piped or bool(self._duration or self._container.duration)

    def frames(self) -> Generator[LiveFrame, None, None]:
        """As `Live.frames`."""
        codec, declared = self._track.codec_context.name, ColorTags.of(self._track.codec_context)
        tally, watched, orientation = self._tally, _Watched(self._container), Orientation()
        for number, seconds, frame in shown_frames(watched, self._track, tally):
            tally.last, tally.last_s = number, seconds
            tally.end_s = seconds + 1 / self._fps
            picture = Decoded(Path(self._what), frame, frame_color(frame, codec, declared), orientation.of(frame))
            yield LiveFrame(number, seconds, picture.rgb)
        if watched.fault:
            raise BackdropError(f"{self._what} {_gave_no_more(tally.decoded, tally.end_s, watched.fault)}")
        tally.complete = True
        if not tally.decoded:
            raise BackdropError(f"{self._what} {_gave_no_more(0, 0.0, self._remedy)}")

    def ending(self) -> tuple[float, str]:
        """As `Live.ending`."""
        context, tally = self._track.codec_context, self._tally
        info = VideoInfo(
            Path(self._what),
            context.name,
            context.width,
            context.height,
            self._fps,
            self._declared,
            self._duration,
        )
        return end_of_video(info, tally), damage(info, tally)


class _Watched:
    """A container whose packets end where reading fails, and which says why. fault: "" where it did not fail."""

    def __init__(self, container: Any) -> None:
        self.format, self.fault, self._container = container.format, "", container

    def demux(self, track: Any) -> Iterator[Any]:
        try:
            yield from self._container.demux(track)
        except av.error.FFmpegError as fault:
            self.fault = fault.strerror or one_line(fault)


_FROM_THE_FRONT = (
    "a pipe cannot be read backwards: send a format that is whole from the front (`ffmpeg -i VIDEO -c copy -f matroska "
    "- | backdrop predict - -o OUT`)"
)


def _unopened(what: str, piped: bool, fault: BaseException) -> str:
    reason = getattr(fault, "strerror", None) or one_line(fault)
    if piped:
        return f"what comes through the pipe is no readable video ({reason}); {_FROM_THE_FRONT}"
    return f"{what} cannot be opened ({reason}); is the address right, and is something sent there?"


def _gave_no_more(count: int, seconds: float, why: str = "is it unplugged, or asleep?") -> str:
    if not count:
        return f"gave not one frame; {why}"
    return f"dropped out after {count} frames ({seconds:.1f} s; {why})"


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """OpenCV writes warnings of its own about a camera that is not there; ours says it in one line."""
    logging = cv2.utils.logging
    before: Any = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
