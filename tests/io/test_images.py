"""Still images: any mode becomes RGB, damage is named, PNG is lossless."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from backdrop.errors import BackdropError
from backdrop.io import images
from tests.moving_picture import distance, moving_picture


def _png(image: Image.Image, kind: str = "PNG", **rest) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **rest)
    return data.getvalue()


def test_images_of_any_mode_become_rgb() -> None:
    gray = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    rgb = np.dstack([gray, gray, gray])
    assert np.array_equal(images.decode_image(_png(Image.fromarray(gray))), rgb)
    assert np.array_equal(images.decode_image(_png(Image.fromarray(gray.astype(np.uint16) * 257))), rgb)
    alpha = Image.fromarray(np.dstack([rgb, np.zeros_like(gray)]), "RGBA")
    assert np.array_equal(images.decode_image(_png(alpha)), rgb)
    palette = Image.fromarray(gray, "P")
    palette.putpalette([v for i in range(256) for v in (i, i, i)])
    assert np.array_equal(images.decode_image(_png(palette)), rgb)
    with pytest.raises(BackdropError, match="floating-point"):
        images.decode_image(_png(Image.fromarray(gray.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(orientation: int, turns: int) -> None:
    frame = moving_picture(1)[0]
    exif = Image.Exif()
    exif[274] = orientation
    decoded = images.decode_image(_png(Image.fromarray(frame), "JPEG", exif=exif, quality=95))
    assert distance(decoded, np.rot90(frame, turns)) < 6


def test_damaged_and_huge_images_are_errors_by_name(tmp_path: Path) -> None:
    jpeg = images.encode_jpeg(moving_picture(1)[0])
    bad = {"cut.jpg": jpeg[: len(jpeg) // 2], "empty.jpg": b"", "text.jpg": b"hello", "flip.jpg": b"\x00" + jpeg[1:]}
    header = b"IHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    bad["bomb.png"] = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BackdropError, match=name):
            images.decode_image(tmp_path / name)
    with pytest.raises(BackdropError, match=r"gone\.png does not exist"):
        images.decode_image(tmp_path / "gone.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_is_lossless(dtype: type, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    back = cv2.imdecode(np.frombuffer(images.encode_png(image), np.uint8), cv2.IMREAD_UNCHANGED)
    assert back.dtype == dtype
    assert np.array_equal(back[..., ::-1] if image.ndim == 3 else back, image)


def test_shrinking_averages_areas() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    small = images.resize(np.dstack([board] * 3).astype(np.uint8), (32, 32))
    assert small.shape == (32, 32, 3)
    assert np.abs(small.astype(int) - 127).max() <= 1
    assert images.resize(small, None) is small


# --------------------------------------------------------------------------------------- broken metadata


def _pixels() -> np.ndarray:
    return moving_picture(1, 60, 40)[0]


def _exif(order: str = "<", *, more: tuple[tuple[int, int, int, int], ...] = (), kind: int = 3) -> bytes:
    """EXIF with orientation 6 and more entries: tag, kind, count, value or place."""
    value = struct.pack(order + "HH", 6, 0) if kind == 3 else struct.pack(order + "I", 6)
    entries = [(0x0112, struct.pack(order + "HHI", 0x0112, kind, 1) + value)]
    entries += [(tag, struct.pack(order + "HHII", tag, kind, count, place)) for tag, kind, count, place in more]
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return head + b"".join(entry for _, entry in sorted(entries)) + bytes(4)


def _jpeg(*segments: tuple[int, bytes]) -> bytes:
    data = _png(Image.fromarray(_pixels()), "JPEG", quality=95)
    extra = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + extra + data[2:]


def _turned(exif: bytes, *segments: tuple[int, bytes]) -> bytes:
    return _jpeg((0xE1, b"Exif\0\0" + exif), *segments)


def _chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    found = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", found)


def _chunked(*chunks: bytes, after: bool = False) -> bytes:
    data = _png(Image.fromarray(_pixels()))
    at = data.index(b"IEND") - 4 if after else 33
    return data[:at] + b"".join(chunks) + data[at:]


def _webp(exif: bytes = b"", icc: bytes = b"") -> bytes:
    return _png(Image.fromarray(_pixels()), "WEBP", lossless=True, exif=exif, icc_profile=icc)


PACKED = zlib.compress

TURNED = {
    "bad rational": _turned(_exif(more=((0x011A, 5, 1, 9999),))),
    "zero denominator": _turned(_exif(more=((0x9204, 10, 1, 500),))),
    "bad sub-table": _turned(_exif(more=((0x8769, 4, 1, 5000),))),
    "sub-table is the table": _turned(_exif(more=((0x8769, 4, 1, 8),))),
    "bad GPS": _turned(_exif(more=((0x8825, 4, 1, 99_999_999),))),
    "cut off": _turned(_exif()[:-6]),
    "huge count": _turned(_exif()[:8] + struct.pack("<H", 60000) + _exif()[10:]),
    "big-endian": _turned(_exif(">", more=((0x011A, 5, 1, 9999),))),
    "long": _turned(_exif(kind=4)),
    "unknown kind": _turned(_exif(more=((0x9999, 77, 1, 0),))),
    "short ICC": _turned(_exif(), (0xE2, b"ICC_PROFILE\0\1")),
    "bad ICC": _turned(_exif(), (0xE2, b"ICC_PROFILE\0\1\3xx")),
    "bad MPF": _turned(_exif(), (0xE2, b"MPF\0II*\0\xff\xff\xff\x7f")),
    "bad Photoshop": _turned(_exif(), (0xED, b"Photoshop 3.0\x008BIM\x04")),
    "short Adobe": _turned(_exif(), (0xEE, b"Adobe\0")),
    "short JFIF": _turned(_exif(), (0xE0, b"JFIF\0\1")),
    "PNG": _chunked(_chunk(b"eXIf", _exif(more=((0x011A, 5, 1, 9999),)))),
    "PNG with another fault": _chunked(_chunk(b"eXIf", _exif()), _chunk(b"pHYs", b"\0")),
    "PNG at the end": _chunked(_chunk(b"eXIf", _exif()), after=True),
    "WebP": _webp(_exif(more=((0x011A, 5, 1, 9999),))),
}

UPRIGHT = {
    "no EXIF": _turned(b"\0"),
    "cut in the entry": _turned(_exif()[:16]),
    "no byte order": _turned(b"XX" + _exif()[2:]),
    "no such orientation": _turned(_exif().replace(struct.pack("<HH", 6, 0), struct.pack("<HH", 9, 0))),
    "iCCP": _chunked(_chunk(b"iCCP", b"x\0\0no zlib")),
    "iCCP without a name": _chunked(_chunk(b"iCCP", b"xxxx")),
    "iCCP by another method": _chunked(_chunk(b"iCCP", b"x\0\7" + PACKED(b"a"))),
    "iCCP of megabytes": _chunked(_chunk(b"iCCP", b"x\0\0" + PACKED(bytes(5_000_000)))),
    "zTXt": _chunked(_chunk(b"zTXt", b"k\0\0xx")),
    "zTXt of megabytes": _chunked(_chunk(b"zTXt", b"k\0\0" + PACKED(bytes(5_000_000)))),
    "much zTXt": _chunked(*(_chunk(b"zTXt", b"k%d\0\0" % i + PACKED(bytes(1_000_000))) for i in range(80))),
    "iTXt": _chunked(_chunk(b"iTXt", b"k\0\1\0en\0\xff\xfe\0junk")),
    "wrong sum": _chunked(_chunk(b"tEXt", b"a\0b", crc=1)),
    "EXIF as text": _chunked(_chunk(b"zTXt", b"Raw profile type exif\0\0" + PACKED(b"\nexif\n  zz\nno hex"))),
    "eXIf": _chunked(_chunk(b"eXIf", b"junk")),
    "short": _chunked(*(_chunk(name, b"\0") for name in (b"gAMA", b"cHRM", b"pHYs", b"tRNS", b"acTL"))),
    "fcTL": _chunked(_chunk(b"fcTL", bytes(26))),
    "WebP EXIF": _webp(b"junk" * 5),
    "WebP ICC": _webp(icc=b"junk" * 5),
}


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_a_jpeg_without_its_end_marker_is_read_and_one_without_its_last_pixels_is_not(options: dict[str, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (37, 52, 3), dtype=np.uint8)
    data = _png(Image.fromarray(picture), "JPEG", quality=90, **options)
    assert data.endswith(b"\xff\xd9")
    whole = images.decode_image(data)
    for lost in (1, 2):
        assert (images.decode_image(data[:-lost]) == whole).all()
    for lost in (4, 5, 6, 8, 12, 20, 50, 200, 1000):
        with pytest.raises(BackdropError, match="image is no readable image"):
            images.decode_image(data[:-lost])


def test_a_progressive_jpeg_without_its_end_is_refused() -> None:
    data = _png(Image.new("RGB", (40, 30), "red"), "JPEG", progressive=True)
    with pytest.raises(BackdropError, match="truncated"):
        images.decode_image(data[:-2])


@pytest.mark.parametrize("name", [*TURNED, *UPRIGHT])
def test_broken_metadata_is_no_reason_to_refuse_pixels(name: str, tmp_path: Path) -> None:
    data, pixels = (TURNED | UPRIGHT)[name], _pixels()
    expected = np.rot90(pixels, -1) if name in TURNED else pixels
    (tmp_path / "x.any").write_bytes(data)
    for decoded in (images.decode_image(data), images.decode_image(tmp_path / "x.any")):
        assert decoded.shape == expected.shape
        assert np.array_equal(decoded, expected) or (data[:2] == b"\xff\xd8" and distance(decoded, expected) < 6)


def test_pixels_are_not_read_without_their_palette() -> None:
    data = _png(Image.fromarray(_pixels()).quantize(9))
    at = data.index(b"PLTE")
    with pytest.raises(BackdropError, match="no readable image"):
        images.decode_image(data[:at] + b"pLTE" + data[at + 4 :])


def test_the_given_photos_with_broken_exif_are_turned(cases: Path) -> None:
    paths = sorted((cases / "exif").glob("*.jpg"))
    assert len(paths) == 2
    for path in paths:
        assert images.decode_image(path).shape == (60, 40, 3)
