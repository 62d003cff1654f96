"""The sound of a video file, carried over to a video that is written anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av

from backdrop.io.files import libav_url, one_line

_COPIED = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "mp3float", "opus", "libopus")
"""What players expect in MP4. Packets of these are copied; other sound is encoded anew, as AAC."""

_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Samples per second that AAC can have."""

_LEAD = 0.1
"""Seconds before the first frame that are copied, too: a decoder needs them to begin with. Players pass over them."""

_FAULTS = (av.error.InvalidDataError, av.error.ArgumentError, ValueError)


class Sound:
    """All sound tracks of a file, for `encode_video`. Without any, nothing is written.

    What cannot be carried over is left out, and `lost` says why. To be used in a `with` block.

    Args:
        path: the file.
        start_s: time of the first frame by the file's clock.
        end_s: sound after it is left out; seconds since the first frame. None: all is kept.

    Attributes:
        lost: why sound is missing, or "".
    """

    def __init__(self, path: Path, start_s: float, end_s: float | None = None) -> None:
        self.start_s, self.end_s, self.lost = start_s, end_s, ""
        self._path = path
        self._source: Any = None
        self._container: Any = None
        self._tracks: dict[int, _Track] = {}
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None

    def __enter__(self) -> Sound:
        try:
            self._source = av.open(
                libav_url(self._path), options={"protocol_whitelist": "file"}, metadata_errors="replace"
            )
        except av.error.FFmpegError as fault:
            self.lost = one_line(fault)
        return self

    def __exit__(self, *fault: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._source is not None:
            self._source.close()

    def open(self, container: Any) -> None:
        """Add the tracks to a container, before anything is written."""
        if self._source is None:
            return
        self._container = container
        for stream in self._source.streams.audio:
            try:
                self._tracks[stream.index] = _Track(stream, container)
            except (*_FAULTS, AttributeError) as fault:  # the latter: an unknown codec
                self._lose(stream.index, fault)
        if self._tracks:
            self._packets = self._source.demux([self._source.streams[index] for index in self._tracks])
            self._advance()

    def write(self, until: float | None) -> None:
        """Write what comes before `until`, in seconds since the first frame; None: the rest."""
        while self._next is not None:
            packet = self._next
            track = self._tracks.get(packet.stream.index)
            time = packet.pts if packet.dts is None else packet.dts
            if track is not None and time is not None:
                seconds = float(time * packet.time_base) - self.start_s
                if until is not None and seconds > until:
                    return
                if self.end_s is None or seconds < self.end_s:
                    self._pass_on(track, packet)
            self._advance()
        if until is None:
            for track in list(self._tracks.values()):
                self._pass_on(track, None)

    def _pass_on(self, track: _Track, packet: Any) -> None:
        try:
            for made in track.made(packet, self.start_s):
                self._container.mux(made)
        except _FAULTS as fault:
            self._lose(track.index, fault)

    def _advance(self) -> None:
        try:
            self._next = next(self._packets, None)
        except av.error.FFmpegError as fault:
            self._next, self.lost = None, self.lost or one_line(fault)

    def _lose(self, index: int, fault: Exception) -> None:
        self._tracks.pop(index, None)
        self.lost = self.lost or one_line(fault)


class _Track:
    """One track: copied, or decoded and encoded anew."""

    def __init__(self, stream: Any, container: Any) -> None:
        self.index, context = stream.index, stream.codec_context
        self.copied = context.name in _COPIED
        if self.copied:
            self.output = container.add_stream_from_template(stream)
        else:
            rate = context.sample_rate if context.sample_rate in _RATES else 48000
            self.output = container.add_stream("aac", rate=rate)
            self.output.layout = context.layout.name if context.layout.name in ("mono", "5.1", "7.1") else "stereo"
        if stream.language:
            self.output.metadata["language"] = stream.language

    def made(self, packet: Any, start_s: float) -> Iterator[Any]:
        """The packets to write for one of the source, None at its end."""
        if self.copied:
            if packet is not None and packet.size:
                yield from self._moved(packet, start_s)
            return
        for frame in () if packet is None else packet.decode():
            if frame.pts is not None:
                if float(frame.pts * frame.time_base) + frame.samples / frame.sample_rate <= start_s:
                    continue
                frame.pts -= round(start_s / frame.time_base)
            yield from self.output.encode(frame)
        if packet is None:
            yield from self.output.encode(None)

    def _moved(self, packet: Any, start_s: float) -> Iterator[Any]:
        """The packet on the clock of the new file, if it is heard at all."""
        shift = round(start_s / packet.time_base)
        if packet.is_discard and (packet.pts or 0) >= shift:  # an edit list leaves it out
            return
        if packet.pts is not None:
            if packet.pts + (packet.duration or 0) <= shift - _LEAD / packet.time_base:
                return
            packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        packet.stream = self.output
        yield packet
