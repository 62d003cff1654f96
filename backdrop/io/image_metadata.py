"""Metadata of image files: read where it can be, and taken out where it keeps the pixels from being read."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

_ORIENTATION = 0x0112

_EXIF = b"Exif\0\0"


JPEG_END = b"\xff\xd9"


def orientation(image: Any) -> int:
    """How an opened Pillow image is turned, by EXIF or XMP: 1..8. 1 is upright, and stands for what cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow reads all of it, and raises a dozen kinds on damaged bytes
        value = None
    return value if value in range(1, 9) else exif_orientation(image.info.get("exif") or b"")


def exif_orientation(exif: bytes) -> int:
    """The orientation by the first table of EXIF bytes, whatever else is in them; 1 if it cannot be read."""
    exif = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return 1
    (table,) = struct.unpack_from(order + "I", exif, 4)
    if table + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, table)
    for at in range(table + 2, min(table + 2 + 12 * count, len(exif) - 9), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, at)
        if tag == _ORIENTATION:
            wide = kind == 4 and at + 12 <= len(exif)
            (value,) = struct.unpack_from(order + ("I" if wide else "H"), exif, at + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def without_metadata(data: bytes) -> tuple[bytes, int] | None:
    """A PNG, JPEG or WebP file with its pixels alone, and the orientation that its metadata named.

    None: it is of another kind, or has not the parts that make the pixels.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _bare_png(data)
    if data.startswith(b"\xff\xd8"):
        return _bare_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _bare_webp(data)
    return None


def lacks_end(data: bytes) -> bool:
    """Whether a file is a JPEG without its end marker. Progressive ones do not count: theirs may lack a whole scan."""
    if not data.startswith(b"\xff\xd8") or JPEG_END in data[-64:]:
        return False
    return 0xC2 not in (marker for marker, _, _ in _jpeg_segments(data))


def _bare_png(data: bytes) -> tuple[bytes, int] | None:
    kept, names, turned, at = [data[:8]], set(), 1, 8
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(data[at : at + 12 + size])
            names.add(name)
        elif name == b"eXIf":
            turned = exif_orientation(data[at + 8 : at + 8 + size])
        at += 12 + size
    palette = len(data) > 25 and data[25] == 3
    return (b"".join(kept), turned) if b"IDAT" in names and (b"PLTE" in names or not palette) else None


def _bare_jpeg(data: bytes) -> tuple[bytes, int] | None:
    kept, turned = [data[:2]], 1
    for marker, at, end in _jpeg_segments(data):
        content = data[at + 4 : end]
        if marker == 0xE1 and content.startswith(_EXIF) and turned == 1:
            turned = exif_orientation(content)
        color = marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12  # says how colors are coded
        if color or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at:end])
    return b"".join(kept), turned


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment after the first. From the first scan on, the rest counts as one."""
    at = 2
    while found := re.compile(rb"\xff[\xc0-\xfe]").search(data, at):
        at, marker = found.start(), data[found.start() + 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            end = len(data)
        yield marker, at, end
        at = end


def _bare_webp(data: bytes) -> tuple[bytes, int] | None:
    pixels, turned, at = b"", 1, 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name in (b"VP8 ", b"VP8L") and not pixels:
            pixels = data[at : at + 8 + size + size % 2]
        elif name == b"EXIF":
            turned = exif_orientation(data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return (b"RIFF" + struct.pack("<I", 4 + len(pixels)) + b"WEBP" + pixels, turned) if pixels else None
