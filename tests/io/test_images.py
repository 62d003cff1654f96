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
