"""Which number a decoded frame has in its file: how many frames come before it, lost ones included."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, NamedTuple

_BARELY = 20
"""Bytes. An MPEG-4 packet of fewer, of which no frame comes, says "as before"."""

_DEEP = 16
"""Frames. No codec reorders more; a time stamp that is further back begins the clock anew."""


class _Waiting(NamedTuple):
    """A packet whose frame has not come out yet.

    clock: how often the time stamps began anew before it. pts: when it is shown.
    none: it says of itself that it shows no frame.
    """

    clock: int
    pts: int
    corrupt: bool
    key: bool
    none: bool


class Numbered(NamedTuple):
    """A frame's number and time stamp (None without), and whether it is intact: neither corrupt nor out of order."""

    number: int
    pts: int | None
    intact: bool


class _FrameTimes:
    """The times between frames that came out. `shortest` of them, in ticks; None before there is one.

    Args:
        period: what a frame lasts by the file's header, in ticks.
    """

    def __init__(self, period: float) -> None:
        self.period = period
        self.shortest: int | None = None
        self._all = self._even = 0  # times: all, and those about as long as the shortest

    def measure(self, step: int) -> None:
        """See the time between two frames."""
        if step <= 0:
            return
        if self.shortest is None or step < 0.9 * self.shortest:
            self._all = self._even = 0
        self.shortest = min(self.shortest or step, step)
        self._all += 1
        self._even += step < 1.1 * self.shortest

    def is_steady(self) -> bool:
        """Whether frames come at a constant rate; of few frames, whether at the header's."""
        if self._all < 3 and abs((self.shortest or 0) - self.period) > 0.1 * self.period:
            return False
        return self._all > 0 and self._even >= 0.8 * self._all


class Numbering:
    """Numbers frames in the order in which they come out of a decoder.

    A packet is not a frame. VP8 and VP9 send hidden pictures, interlaced video may send the two fields of a frame one
    by one, MPEG-4 sends packets that say "as before". So it is frames that are counted. A packet of which no frame
    came counts as a lost frame only where the frames around it are further apart than one frame lasts.

    Packets come in decoding order. Those not yet shown wait in a heap, which is as long as the reordering is deep.
    Where recordings were joined, time stamps begin anew; here they go on.

    Args:
        codec: libav's name of it.
        period: what a frame lasts by the file's header, in ticks of the time stamps.
        ordered: the file keeps the time at which a packet is decoded, not shown (AVI); frames have these times in turn.
        length: what the track lasts by the file's header, in ticks; None where it does not say.
        torn: the file ends in the middle of what it holds.

    Attributes:
        count: the number that the next frame has at least.
        first: time stamp of frame 0; None before it is known.
        lost: frames that were lost, and corrupt ones.
        companions: packets that belong to another packet's frame.
        failures: packets that could not be decoded.
        settled: at the end of the file: every packet became a frame, or belonged to one.
    """

    def __init__(
        self, codec: str, period: float, ordered: bool = False, length: float | None = None, torn: bool = False
    ) -> None:
        self.codec, self.period, self.ordered, self.length, self.torn = codec, period, ordered, length, torn
        self.count = self.lost = self.companions = self.failures = 0
        self.first: int | None = None
        self.settled = True
        self._waiting: list[_Waiting] = []
        self._missed: deque[int] = deque(maxlen=64)  # time stamps of packets of which no frame came
        self._pace = _FrameTimes(period)
        self._last: int | None = None  # time stamp of the frame that came out last
        self._clock = self._sent_clock = self._offset = 0
        self._sent_last: int | None = None
        self._started = self._interlaced = False
        self._paired = self._single = 0  # frames with companions, and without
        self._early = 0  # frames that came out before their packet's time
        self._failed = self._unstamped = 0  # failures since the last frame: all, and those without a time stamp
        self._cut_off = False  # at the end of the file: it ends before its video does

    def sent(self, packet: Any, torn: bool = False) -> None:
        """A packet goes into the decoder. torn: the file ends in the middle of it."""
        self._started |= packet.is_keyframe
        if is_end(packet):
            self._cut_off = self._ends_early()
        pts = packet.dts if self.ordered else packet.pts
        if not packet.size or pts is None or packet.is_discard:
            return
        stamp = pts if packet.dts is None else packet.dts
        if self._sent_last is not None and stamp < self._sent_last - _DEEP * self.period:
            self._sent_clock += 1
        self._sent_last = stamp
        none = _shows_none(self.codec, packet)
        corrupt = packet.is_corrupt or torn
        heapq.heappush(self._waiting, _Waiting(self._sent_clock, pts, corrupt, packet.is_keyframe, none))

    def failed(self, packet: Any) -> None:
        """The decoder refuses a packet. Nobody counts what comes before a recording's first whole picture."""
        if self._started:
            self.failures += 1
            self._failed += 1
            self._unstamped += self.ordered or packet.pts is None

    def shown(self, frame: Any, packet: Any) -> Numbered:
        """Number a frame that comes out when a packet goes in."""
        self._interlaced |= frame.interlaced_frame
        pts, corrupt = frame.pts, frame.is_corrupt
        if pts is None or self.ordered:
            corrupt |= packet.is_corrupt
            pts = self._next_in_turn()
        else:
            self._follow_clock(pts)
            if pts in self._missed or (self._is_damaged() and self._last is not None and pts <= self._last):
                return Numbered(self.count, pts, False)  # too late: it has been counted
            before = []
            while self._waiting and self._waiting[0][:2] <= (self._clock, pts):
                before.append(heapq.heappop(self._waiting))
            corrupt |= any(other.corrupt for other in before if other.pts == pts)
            corrupt |= any(other.corrupt for other in self._waiting if self._is_second_field(other.pts - pts))
            self._pass(pts, before)
        pts = None if pts is None else pts + self._offset
        if self.first is None:
            self.first = pts
        self._failed = self._unstamped = 0
        self.count += 1
        self.lost += corrupt
        return Numbered(self.count - 1, pts, not corrupt)

    def finish(self) -> None:
        """The file ends: packets that still wait were its last frames."""
        rest = len(self._waiting) if self._failed else _count_shown(self._waiting)
        lost = self._without_time(max(0, rest - self._early))
        if self.ordered and self._interlaced and not self._failed:  # fields took the times of frames
            lost = 0
        self._skip(lost)
        self.companions += len(self._waiting) - lost
        self.settled = not self._is_damaged() and len(self._waiting) <= self._early + self._has_fields()
        self._waiting.clear()

    def _follow_clock(self, pts: int) -> None:
        """Let the time stamps go on where they begin anew."""
        if self._last is None or self._clock == self._sent_clock or pts >= self._last - _DEEP * self.period:
            return
        step = self._pace.shortest or round(self.period)
        self._offset += self._last + step - pts
        self._clock += 1
        self._last = pts - step
        self._missed.clear()

    def _next_in_turn(self) -> int | None:
        """The time stamp of the next packet, where frames have none of their own."""
        for _ in range(min(self._unstamped, max(0, len(self._waiting) - 1))):
            heapq.heappop(self._waiting)
        self._skip(self._unstamped)
        return heapq.heappop(self._waiting).pts if self._waiting else None

    def _pass(self, pts: int, before: list[_Waiting]) -> None:
        """Count the frames that were lost before the one at `pts`. before: packets up to its own."""
        others = [packet for packet in before if packet.pts != pts]
        if not before:
            self._early += 1
        silent = max(0, len(before) - 1)
        made_up = min(self._early, silent)
        self._early -= made_up
        silent -= made_up
        lost = self._lost_before(pts, before, silent)
        if lost:
            self._missed.extend(packet.pts for packet in others)
        self._skip(lost)
        self.companions += max(0, silent - lost)
        if self._last is not None:
            self._paired += silent > 0
            self._single += silent == 0
            self._pace.measure(pts - self._last)
        self._last = pts

    def _lost_before(self, pts: int, before: list[_Waiting], silent: int) -> int:
        """How many of `silent` packets between the last frame and the one at `pts` were frames."""
        if self._last is None:  # only what follows a whole picture could have been shown
            keys = [packet.pts for packet in before if packet.key and packet.pts != pts]
            gone = [packet.pts for packet in before if keys and min(keys) <= packet.pts < pts]
            self.first = min(gone, default=pts)
            return min(silent, self._without_time(len(gone)))
        sure = _count_shown(before) - 1  # the others say that they show nothing; so do damaged ones
        most = silent if self._failed else min(silent, sure)
        fields, shortest = self._interlaced or self._paired > self._single, self._pace.shortest
        broken = self._failed or self._cut_off or any(packet.corrupt for packet in before)
        if broken and self._pace.is_steady() and shortest is not None:
            return max(0, _whole(pts - self._last, shortest) - 1)  # packets, too, may be missing
        if most <= 0:
            return 0
        if not fields:
            shortest = min(self.period, shortest or self.period)  # type: ignore[assignment]
        if shortest is None:
            return self._without_time(most)
        behind = sum(packet.pts < self._last for packet in before) if self._is_damaged() else 0
        hole = _whole(pts - self._last, shortest) - 1 + behind
        least = 0 if fields else min(self._failed, sure)
        return min(max(hole, least, 0), most)

    def _ends_early(self) -> bool:
        """Whether the file was cut off, so that pictures are missing that are shown before one that is there."""
        if self.torn or self._is_damaged() or any(packet.corrupt for packet in self._waiting):
            return True
        if self.length is None or self.first is None or self._sent_clock or not self._waiting:
            return False
        return max(packet.pts for packet in self._waiting) - self.first + 1.5 * self.period < self.length

    def _is_damaged(self) -> bool:
        return bool(self.lost or self.failures)

    def _has_fields(self) -> bool:
        """Whether a frame comes in two packets."""
        return self._paired > self._single or (self._interlaced and (self._paired > 0 or self._single == 0))

    def _without_time(self, packets: int) -> int:
        """How many frames so many packets are. One field more belongs to the frame before."""
        return packets // 2 if self._has_fields() else packets

    def _is_second_field(self, after: int) -> bool:
        return self._interlaced and after < 0.75 * (self._pace.shortest or self.period)

    def _skip(self, frames: int) -> None:
        self.count += frames
        self.lost += frames


def is_end(packet: Any) -> bool:
    """Whether it is the empty packet after a track's last one."""
    return not packet.size and packet.pts is None and packet.dts is None


def _whole(time: int, step: float) -> int:
    """How many steps a time is; steps may be longer by a quarter in all."""
    return int(time / step + 0.25)


def _count_shown(packets: list[_Waiting]) -> int:
    return sum(not packet.none for packet in packets)


def _shows_none(codec: str, packet: Any) -> bool:
    """Whether a packet says that it shows no frame: a picture that only others refer to, or "as before"."""
    data = memoryview(packet)
    if codec == "mpeg4":
        return len(data) < _BARELY
    if codec == "vp8":
        return not data[0] & 0x10
    if codec != "vp9" or data[0] >> 6 != 2 or data[-1] & 0xE0 == 0xC0:  # the latter: several pictures, the last shown
        return False
    bits = data[0] if data[0] >> 4 & 3 != 3 else data[0] << 1  # profile 3 has one more bit
    return not bits & 0x08 and not bits & 0x02
