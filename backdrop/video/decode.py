"""Decoding video files with PyAV, and telling an intact file from a damaged one."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from backdrop.errors import BackdropError
from backdrop.io.files import libav_url, one_line, show
from backdrop.io.images import MAX_PIXELS, RGB


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself.

    Attributes:
        width, height: of an upright frame, in pixels as stored (pixels are taken as square).
        fps: average frames per second.
        declared_frames: frames the container declares, None where it declares none (Matroska, MPEG-TS).
        duration_s: declared duration of the video track, None where unknown.
    """

    path: Path
    codec: str
    width: int
    height: int
    fps: float
    declared_frames: int | None
    duration_s: float | None


@dataclass
class Tally:
    """What decoding met, to tell an intact file from a damaged one (see `damage`)."""

    decoded: int = 0  # frames that came out intact, whether they are used or not
    hidden: int = 0  # packets that an edit list hides
    lost: int = 0  # frames or packets found corrupt
    end_s: float = 0.0  # end of the last decoded frame, since the start of the track
    complete: bool = False  # the end of the file was reached


def probe(path: Path | str) -> VideoInfo:
    """What the file declares; decodes its first frame, which alone knows the rotation.

    Raises:
        BackdropError: no video, or not one frame can be decoded.
    """
    path = Path(path)
    with _opened_container(path) as (container, stream):
        _, frame = next(_shown_frames(container, stream, Tally()), (0, None))
        if frame is None:
            raise BackdropError(f"{show(path)}: not one frame can be decoded; is the file whole?")
        transposed = _orientation(frame)[0]
        width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
        fps = _fps(stream)
        tag = stream.metadata.get("NUMBER_OF_FRAMES") or stream.metadata.get("NUMBER_OF_FRAMES-eng") or ""
        declared = stream.frames or (int(tag) if tag.isdecimal() else 0) or None
        duration = _declared_duration(container, stream, declared, fps)
        codec = stream.codec_context.name
    return VideoInfo(path, codec, width, height, fps, declared, duration)


def decode_video(
    path: Path | str, every: int = 1, threads: int = 1, tally: Tally | None = None
) -> Iterator[tuple[int, float, RGB]]:
    """Yield (index, time_s, image) of every n-th frame, upright, in the order they are shown.

    Frames that are cut off or marked corrupt are left out, but counted in the index, so that the
    index of the others still is their number in the file.

    Args:
        path: the video file.
        every: keep frames 0, every, 2 every, ...
        threads: decoding threads.
        tally: filled while decoding.

    Returns:
        index: frame number in the file, from 0.
        time_s: presentation time in seconds since the first frame (variable frame rates included).
        image: (H, W, 3) RGB, rotated as the file's display matrix says.

    Raises:
        BackdropError: no video, or not one frame can be decoded.
    """
    tally = Tally() if tally is None else tally
    with _opened_container(Path(path)) as (container, stream):
        stream.codec_context.thread_count = threads
        if threads > 1:
            stream.codec_context.thread_type = "AUTO"
        fps, first = _fps(stream), None
        origin = float(stream.start_time * stream.time_base) if stream.start_time is not None else None
        for index, frame in _shown_frames(container, stream, tally):
            time = index / fps if frame.time is None else frame.time
            first = time if first is None else first
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / fps
            tally.end_s = time + length - (first if origin is None else origin)
            if index % every == 0:
                yield index, time - first, _upright_image(frame)
        if tally.decoded == 0:
            raise BackdropError(f"{show(Path(path))}: not one frame can be decoded; is the file whole?")
        tally.complete = True


def damage(info: VideoInfo, tally: Tally) -> str:
    """Why the decoded file is not intact, or "".

    Decoders stop silently at the end of a truncated file, so what came out is compared with what
    the file declares. A file is short only if frames and time are both missing: edit lists and
    dropped frames make counts alone unreliable.
    """
    faults = []
    if tally.complete:
        declared, duration = info.declared_frames, info.duration_s
        fewer = declared is None or tally.decoded + tally.hidden < declared
        shorter = duration is None or tally.end_s < duration - 0.5 / info.fps
        if fewer and shorter and declared is not None:
            faults.append(f"{tally.decoded} of {declared} declared frames could be decoded")
        elif fewer and shorter and duration is not None:
            faults.append(f"frames end at {tally.end_s:.2f} s of {duration:.2f} s declared")
    if tally.lost:
        faults.append(f"corrupt frames: {tally.lost}")
    return "; ".join(faults)


@contextmanager
def _opened_container(path: Path) -> Iterator[tuple[Any, Any]]:
    """Container and first real video stream of a file.

    Raises:
        BackdropError: the file is missing, empty, no video, or too large.
    """
    if not path.is_file():
        raise BackdropError(f"{show(path)} does not exist or is no file")
    if path.stat().st_size == 0:
        raise BackdropError(f"{show(path)} is empty (0 bytes); copy it again or remove it")
    try:
        # a playlist in disguise must not open the network
        container = av.open(libav_url(path), options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, UnicodeError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or one_line(fault)
        raise BackdropError(
            f"{show(path)} is no readable video ({reason}); it may be cut off, still being copied, or another "
            "kind of file: copy or convert it again, or remove it"
        ) from fault
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise BackdropError(f"{show(path)} holds no video track; remove it from the folder")
        if streams[0].codec_context is None:
            raise BackdropError(f"{show(path)} holds video of an unknown codec; convert it to H.264")
        width, height = streams[0].codec_context.width, streams[0].codec_context.height
        if width * height > MAX_PIXELS:
            raise BackdropError(f"{show(path)} is {width}x{height}; scale it down below {MAX_PIXELS} pixels first")
        yield container, streams[0]


def _shown_frames(container: Any, stream: Any, tally: Tally) -> Iterator[tuple[int, Any]]:
    """Yield (frame number in the file, frame) of the intact frames in the order they are shown.

    A frame's number is that of the packets shown before it, so that lost ones leave a gap. Packets come in
    decoding order; those not yet shown wait in a heap, which is as long as the reordering is deep.
    """
    waiting: list[tuple[int, bool]] = []  # (presentation time stamp, cut or damaged)
    shown, index = 0, -1
    for packet, frames in _packets(container, stream, tally):
        if packet.size and packet.pts is not None and not packet.is_discard:
            heapq.heappush(waiting, (packet.pts, packet.is_corrupt))
        for frame in frames:
            corrupt = frame.is_corrupt or (frame.pts is None and packet.is_corrupt)
            if frame.pts is None and waiting:
                heapq.heappop(waiting)
                shown += 1
            while waiting and frame.pts is not None and waiting[0][0] <= frame.pts:
                pts, damaged = heapq.heappop(waiting)
                corrupt |= damaged and pts == frame.pts
                shown += 1
            index = max(index + 1, shown - 1)
            if corrupt:
                tally.lost += 1
            else:
                tally.decoded += 1
                yield index, frame


def _packets(container: Any, stream: Any, tally: Tally) -> Iterator[tuple[Any, list[Any]]]:
    """Each packet with the frames that come out when it goes in; what cannot be read is counted, not raised."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the rest of the file is unreadable
            tally.lost += 1
            return
        if packet is None:
            return
        tally.hidden += bool(packet.size and packet.is_discard)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            frames = []
            tally.lost += 1
        yield packet, frames


def _fps(stream: Any) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else 25.0


def _declared_duration(container: Any, stream: Any, declared: int | None, fps: float) -> float | None:
    """Seconds of the track by the file's header; None where libav can only guess them from the bytes present."""
    kind = container.format.name
    if "avi" in kind:  # libav shortens a truncated file's duration; the header's count is what was meant
        return declared / fps if declared else None
    if "mp4" in kind:
        return float(stream.duration * stream.time_base) if stream.duration else None
    if "matroska" in kind:
        tag = stream.metadata.get("DURATION") or stream.metadata.get("DURATION-eng")
        if tag:
            with suppress(ValueError):  # the tag is text, and may say anything
                hours, minutes, seconds = tag.split(":")
                return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        if len(container.streams) == 1 and container.duration:  # else the sound may be what lasts that long
            return container.duration / av.time_base
    return None


def _orientation(frame: Any) -> tuple[bool, bool, bool]:
    """(transpose, then flip left-right, then flip up-down) that turn a decoded frame upright.

    Convention: the display matrix, row-major 16.16 integers a b u c d v x y w, sends the stored pixel
    (x, y), x right and y down, to (a x + c y, b x + d y). Only the nearest axis-aligned map is applied.
    """
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _upright_image(frame: Any) -> RGB:
    image = frame.to_ndarray(format="rgb24")
    transposed, left_right, up_down = _orientation(frame)
    if transposed:
        image = image.transpose(1, 0, 2)
    if left_right:
        image = image[:, ::-1]
    if up_down:
        image = image[::-1]
    return np.ascontiguousarray(image)
