"""Decoding video files with PyAV, and telling an intact file from a damaged one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from backdrop.errors import BackdropError
from backdrop.io.files import libav_url, one_line, show
from backdrop.io.images import MAX_PIXELS, RGB
from backdrop.video.color import ColorTags, frame_color
from backdrop.video.decoded import Decoded, Orientation, turns
from backdrop.video.numbering import Numbering, is_end
from backdrop.video.torn import torn_track


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself.

    Attributes:
        width, height: of an upright frame, in pixels as stored (pixels are taken as square).
        fps: average frames per second. See `Tally.fps`, which knows better at the end.
        declared_frames: frames the container declares, None where it declares none (Matroska, MPEG-TS). It counts
            packets: hidden ones, and the fields of interlaced frames (see `declared_frames`).
        duration_s: declared duration of the video track from its first frame, None where unknown.
        start_s: time of the first frame by the file's clock, which its sound has too.
        tick: seconds in which the file counts time.
        aspect: width of an upright frame's pixel over its height.
        color: what the numbers of a frame mean.
    """

    path: Path
    codec: str
    width: int
    height: int
    fps: float
    declared_frames: int | None
    duration_s: float | None
    start_s: float = 0.0
    tick: Fraction = Fraction(1, 90000)
    aspect: Fraction = Fraction(1)
    color: ColorTags = ColorTags()


@dataclass
class Tally:
    """What decoding met, to tell an intact file from a damaged one (see `damage`)."""

    decoded: int = 0  # frames that came out intact, whether they are used or not
    hidden: int = 0  # packets that an edit list hides
    companions: int = 0  # packets that belong to another one's frame
    lost: int = 0  # frames known to be lost or corrupt
    unreadable: int = 0  # packets that could not be decoded
    numbered: int = 0  # frames that have a number, lost ones included
    last: int = 0  # number of the last decoded frame
    last_s: float = 0.0  # its time, since the first
    end_s: float = 0.0  # when it ends
    start_s: float = 0.0  # time of frame 0 by the file's clock
    torn: bool = False  # the file ends in the middle of what it holds
    settled: bool = True  # every packet became a frame, or belonged to one
    complete: bool = False  # the end of the file was reached

    def fps(self, declared: float) -> float:
        """Frames per second: the declared number, or the measured one where it is another."""
        if not self.last or self.last_s <= 0:
            return declared
        measured = self.last / self.last_s
        return declared if abs(measured - declared) < 0.02 * declared else measured


def probe(path: Path | str) -> VideoInfo:
    """What the file declares; decodes its first frame, which alone knows rotation and colors.

    Raises:
        BackdropError: no video, or not one frame can be decoded.
    """
    path = Path(path)
    with _opened_container(path) as (container, stream):
        color = ColorTags.of(stream.codec_context)
        tally = Tally()
        frame = next((frame for _, _, frame in shown_frames(container, stream, tally)), None)
        if frame is None:
            raise BackdropError(f"{show(path)}: not one frame can be decoded; is the file whole?")
        transposed = turns(frame)[0]
        width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
        fps = frame_rate(stream)
        declared = declared_packets(container, stream)
        duration = declared_duration(container, stream, declared, fps)
        if duration is not None:  # Matroska's counts from time 0, others from the start of the track
            begin = 0.0 if "matroska" in container.format.name else float((stream.start_time or 0) * stream.time_base)
            duration -= tally.start_s - begin
        codec = stream.codec_context.name
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return VideoInfo(
            path,
            codec,
            width,
            height,
            fps,
            declared,
            duration,
            tally.start_s,
            stream.time_base,
            1 / aspect if transposed else aspect,
            frame_color(frame, codec, color),
        )


def decode_video(
    path: Path | str, every: int = 1, threads: int = 1, tally: Tally | None = None
) -> Iterator[tuple[int, float, RGB]]:
    """Yield (index, time_s, image) of every n-th frame, upright, in the order they are shown.

    Frames that are known to be lost, or marked corrupt, are left out, but counted in the index, so that the index of
    the others still is their number in the file. What never is a frame by itself has no number (see `Numbering`).

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
        BackdropError: no video, not one frame can be decoded, or colors that cannot be converted.
    """
    for index, time, picture in decode_lazily(path, every, threads, tally):
        yield index, time, picture.rgb()


def decode_lazily(
    path: Path | str, every: int = 1, threads: int = 1, tally: Tally | None = None
) -> Iterator[tuple[int, float, Decoded]]:
    """As `decode_video`, with frames whose colors are converted when they are asked for."""
    path, last = Path(path), -1
    tally = Tally() if tally is None else tally
    for count in dict.fromkeys((threads, 1)):
        vars(tally).update(vars(Tally()))
        for index, time, picture in _decoded(path, every, count, tally):
            if count > 1 and not tally.settled:
                break
            if index > last:
                yield index, time, picture
                last = index
        if tally.settled:  # else again: threads lose intact frames beside damaged ones
            break
    if tally.decoded == 0:
        raise BackdropError(f"{show(path)}: not one frame can be decoded; is the file whole?")


def _decoded(path: Path, every: int, threads: int, tally: Tally) -> Iterator[tuple[int, float, Decoded]]:
    """As `decode_lazily`, but a file without a frame is no error."""
    with _opened_container(path) as (container, stream):
        stream.codec_context.thread_count = threads
        if threads > 1:
            stream.codec_context.thread_type = "AUTO"
        codec, declared = stream.codec_context.name, ColorTags.of(stream.codec_context)
        fps, clock, orientation = frame_rate(stream), _Clock(), Orientation()
        for index, time, frame in shown_frames(container, stream, tally, file_end(container, stream)):
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
            tally.last, tally.last_s = index, time
            tally.end_s = time + clock.length(index, time, length, 1 / fps)
            if index % every == 0:
                yield index, time, Decoded(path, frame, frame_color(frame, codec, declared), orientation.of(frame))
        tally.complete = True


class _Clock:
    """How long frames last: as they say, where that was true of those before, else as long as those did on average."""

    def __init__(self) -> None:
        self._last, self._said = (-1, 0.0), 0.0
        self._right = self._wrong = 0

    def length(self, number: int, time: float, said: float, otherwise: float) -> float:
        """Of the next frame, in seconds. said: its own duration, 0 without. otherwise: where nothing is known."""
        before, then = self._last
        if number and number == before + 1:
            right = abs(time - then - self._said) < 0.0015
            self._right += right
            self._wrong += not right
        self._last, self._said = (number, time), said
        if said > 0 and self._right >= self._wrong:
            return said
        return time / number if number and time > 0 else otherwise


def declared_frames(info: VideoInfo, tally: Tally) -> int | None:
    """How many frames the container declares, where it counts packets; None where it declares none."""
    if info.declared_frames is None or not tally.companions or not tally.decoded:
        return info.declared_frames
    share = tally.companions / tally.decoded
    return round(info.declared_frames / (2 if share > 0.8 else 1 + share))  # fields: 2, but for those that are missing


def end_of_video(info: VideoInfo, tally: Tally) -> float:
    """When the last frame ends, in seconds since the first one: as declared where that can be, else measured."""
    declared = info.duration_s or 0.0
    return declared if declared > tally.last_s and not tally.hidden and not damage(info, tally) else tally.end_s


def damage(info: VideoInfo, tally: Tally) -> str:
    """Why the decoded file is not intact, or "".

    Decoders stop silently at the end of a truncated file, so what came out is compared with what
    the file declares. A file is short only if frames and time are both missing: edit lists and
    dropped frames make counts alone unreliable.
    """
    faults = []
    if tally.complete:
        declared, duration = info.declared_frames, info.duration_s
        fewer = declared is None or tally.decoded + tally.hidden + tally.companions < declared
        shorter = duration is None or tally.end_s < duration - 0.5 / min(info.fps, tally.fps(info.fps))
        if fewer and shorter and declared is not None:
            faults.append(f"{tally.decoded} of {declared_frames(info, tally)} declared frames could be decoded")
        elif fewer and shorter and duration is not None:
            faults.append(f"frames end at {tally.end_s:.2f} s of {duration:.2f} s declared")
    if tally.torn and not faults:
        faults.append("the file was cut off")
    if tally.lost or tally.unreadable:
        faults.append(f"corrupt frames: {max(tally.lost, 1)}")
    return "; ".join(faults)


@contextmanager
def _opened_container(path: Path) -> Iterator[tuple[Any, Any]]:
    """Container of a file, and the video track that players show: the default one, else the first.

    Raises:
        BackdropError: the file is missing, empty, no video, or too large.
    """
    if not path.is_file():
        raise BackdropError(f"{show(path)} does not exist or is no file")
    if path.stat().st_size == 0:
        raise BackdropError(f"{show(path)} is empty (0 bytes); copy it again or remove it")
    try:
        # a playlist in disguise must not open the network
        container = av.open(libav_url(path), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.error.FFmpegError, UnicodeError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or one_line(fault)
        raise BackdropError(
            f"{show(path)} is no readable video ({reason}); it may be cut off, still being copied, or another "
            "kind of file: copy or convert it again, or remove it"
        ) from fault
    with container:
        stream = video_track(container)
        if stream is None:
            raise BackdropError(f"{show(path)} holds no video track; remove it from the folder")
        if stream.codec_context is None:
            raise BackdropError(f"{show(path)} holds video of an unknown codec; convert it to H.264")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise BackdropError(f"{show(path)} is {width}x{height}; scale it down below {MAX_PIXELS} pixels first")
        yield container, stream


def video_track(container: Any) -> Any:
    """The video track that players show: the default one, else the first (cover pictures do not count); None: none."""
    kinds = av.stream.Disposition
    pictures = kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image
    tracks = [stream for stream in container.streams.video if not stream.disposition & pictures]
    return next((track for track in tracks if track.disposition & kinds.default), tracks[0] if tracks else None)


class FileEnd(NamedTuple):
    """Where a file ends. length: ticks that its header gives the track. torn: see `torn_track`. None: not known."""

    length: float | None = None
    torn: int | None = None


UNKNOWN_END = FileEnd()


def file_end(container: Any, stream: Any) -> FileEnd:
    """Where an open file should end, and whether it is cut off."""
    seconds = declared_duration(container, stream, declared_packets(container, stream), frame_rate(stream))
    return FileEnd(None if seconds is None else seconds / float(stream.time_base), torn_track(container))


def shown_frames(
    container: Any, stream: Any, tally: Tally, end: FileEnd = UNKNOWN_END
) -> Iterator[tuple[int, float, Any]]:
    """Yield (frame number in the file, seconds since frame 0, frame) of the intact frames in the order shown."""
    fps, tick = frame_rate(stream), stream.time_base
    # AVI has no time of showing; libav finds it for codecs whose pictures it reads on the way
    context = stream.codec_context
    ordered = container.format.name == "avi" and context.name in ("h264", "hevc") and bool(context.has_b_frames)
    tally.torn = end.torn is not None
    numbering = Numbering(context.name, 1 / (fps * float(tick)), ordered, end.length, tally.torn)

    def count() -> None:
        tally.lost, tally.companions, tally.unreadable = numbering.lost, numbering.companions, numbering.failures
        tally.numbered = numbering.count
        tally.settled = numbering.settled and not (tally.lost or tally.unreadable)
        if numbering.first is not None:
            tally.start_s = float(numbering.first * tick)

    for packet, frames in _packets(container, stream, numbering, end.torn == stream.id):
        tally.hidden += bool(packet.size and packet.is_discard)
        for frame in frames:
            index, pts, intact = numbering.shown(frame, packet)
            count()
            if intact:
                tally.decoded += 1
                first = numbering.first
                yield index, index / fps if pts is None or first is None else float((pts - first) * tick), frame
    numbering.finish()
    count()


def _packets(container: Any, stream: Any, numbering: Numbering, torn: bool) -> Iterator[tuple[Any, list[Any]]]:
    """Each packet with the frames that come out when it goes in; what cannot be read is counted, not raised.

    Args:
        torn: the file ends in the middle of the last packet.
    """
    packets = (
        _with_track_end(container.demux(stream)) if torn else ((packet, False) for packet in container.demux(stream))
    )
    while True:
        try:
            packet, last = next(packets, (None, False))
        except av.error.FFmpegError:  # the rest of the file is unreadable
            numbering.failures += 1
            return
        if packet is None:
            return
        numbering.sent(packet, last)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            frames = []
            numbering.failed(packet)
        yield packet, frames


def _with_track_end(packets: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Each packet, and whether it is a track's last one."""
    before = None
    for packet in packets:
        if before is not None:
            yield before, is_end(packet)
        before = packet
    if before is not None:
        yield before, False


def frame_rate(stream: Any) -> float:
    """Frames a second by the file's header; 25 where it says nothing."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else 25.0


def declared_packets(container: Any, stream: Any) -> int | None:
    """Packets of the track by the file's header; None where it says nothing."""
    tag = stream.metadata.get("NUMBER_OF_FRAMES") or stream.metadata.get("NUMBER_OF_FRAMES-eng") or ""
    declared = stream.frames or (int(tag) if tag.isdecimal() else 0)
    if "mp4" in container.format.name and len(stream.index_entries):  # without those that an edit list leaves out
        declared = min(declared, len(stream.index_entries))
    return declared or None


def declared_duration(container: Any, stream: Any, declared: int | None, fps: float) -> float | None:
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
    if kind == "flv" and len(container.streams) == 1 and container.duration and stream.start_time is not None:
        return max(0.0, container.duration / av.time_base - float(stream.start_time * stream.time_base)) or None
    return None
