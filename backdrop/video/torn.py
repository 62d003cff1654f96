"""Files that end in the middle of what they hold, where their container shows it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, BinaryIO

_SYNC = 0x47
"""The first byte of each packet of an MPEG transport stream. All packets have one size, so a cut shows."""

_STEPS = (188, 192, 204)
"""Bytes from one packet to the next: alone, behind a time stamp (MTS, M2TS), and before a check sum."""

_SEGMENT = 0x18538067
"""The element in which Matroska and WebM keep all but their head. It says how many bytes it has."""

SOMEWHERE = -1
"""In place of a track: which one is cut is not known."""


def torn_track(container: Any) -> int | None:
    """The id of the track in whose packet an open file ends, or `SOMEWHERE`.

    None: it is whole, or its container does not show it (MPEG-TS, Matroska, WebM and FLV do).
    """
    path = container.name.removeprefix("file:")
    readers = {"mpegts": _torn_stream, "matroska,webm": _torn_matroska, "flv": _torn_flash}
    reader = readers.get(container.format.name)
    if reader is None or not os.path.isfile(path):
        return None
    with suppress(OSError), open(path, "rb") as file:
        return reader(file)
    return None


def _torn_stream(file: BinaryIO) -> int | None:
    head = file.read(4 * max(_STEPS))
    found = ((at, step) for step in _STEPS for at in range(step) if _are_packets(head, at, step))
    at, step = next(found, (0, 0))
    if not step:
        return None
    size = file.seek(0, 2)
    rest = (size - at) % step
    stamp = 4 if step == 192 else 0  # of the next packet, which is not there
    if rest in (0, step - stamp):
        return None
    file.seek(size - rest)
    tail = file.read(3)
    if not tail or tail[0] != _SYNC:  # something else was put behind it
        return None
    return (tail[1] & 0x1F) << 8 | tail[2] if len(tail) == 3 else SOMEWHERE


def _are_packets(head: bytes, at: int, step: int) -> bool:
    return len(head) > at + 2 * step and all(head[at + i * step] == _SYNC for i in range(3))


def _torn_matroska(file: BinaryIO) -> int | None:
    head = file.read(4096)
    size, at = _element_size(head, 4)
    at += size or 0
    if int.from_bytes(head[at : at + 4], "big") != _SEGMENT:
        return None
    size, at = _element_size(head, at + 4)
    return SOMEWHERE if size is not None and at + size > file.seek(0, 2) else None


def _torn_flash(file: BinaryIO) -> int | None:
    """In FLV the size of each tag stands behind it, too."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 4))
    length = int.from_bytes(file.read(4), "big")
    if not 11 <= length <= size - 4:
        return SOMEWHERE
    file.seek(size - 4 - length)
    return None if 11 + int.from_bytes(file.read(4)[1:], "big") == length else SOMEWHERE


def _element_size(head: bytes, at: int) -> tuple[int | None, int]:
    """The size of an element (None: it does not say) and where its content begins; `at`: behind its id."""
    first = head[at] if at < len(head) else 0
    length = 9 - first.bit_length()  # the zeros before the first 1 tell how many bytes follow
    bits = 7 * length
    size = int.from_bytes(head[at : at + length], "big") & ((1 << bits) - 1)
    return (None if length > 8 or size == (1 << bits) - 1 else size), at + length
