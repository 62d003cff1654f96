"""Still images: decoding, encoding, resizing. RGB, uint8, (H, W, 3)."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from backdrop.errors import BackdropError
from backdrop.io.files import one_line, show
from backdrop.io.image_metadata import JPEG_END, lacks_end, orientation, without_metadata

RGB = UInt8[np.ndarray, "H W 3"]

Gray = UInt8[np.ndarray, "H W"]

# Pillow can open scripts (EPS) and thousands of pages; frames and masks need neither.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")

MAX_PIXELS = 89_478_485  # Pillow's bound against decompression bombs


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its orientation in EXIF."""


def open_image(source: bytes | Path, name: str | None = None) -> Image.Image:
    """A decoded image, turned upright by its EXIF orientation. Other metadata may be damaged.

    Args:
        source: the file, or its bytes.
        name: what messages call it; by default the path.

    Raises:
        BackdropError: not an image, damaged, or too large; the message names it.
    """
    name = name or (show(source) if isinstance(source, Path) else "image")
    try:
        return _decoded_image(source)
    except FileNotFoundError as fault:
        raise BackdropError(f"{name} does not exist") from fault
    except Image.DecompressionBombError as fault:
        raise BackdropError(f"{name} has more than {MAX_PIXELS} pixels; scale it down first") from fault
    except Exception as fault:  # Pillow's decoders raise a dozen kinds on damaged bytes
        with suppress(Exception):  # then the pixels, too, are damaged, and the first fault says more
            data = source if isinstance(source, bytes) else source.read_bytes()
            if lacks_end(data):
                return _without_end(data)
            bare = without_metadata(data)
            if bare is not None:
                return _decoded_image(*bare)
        raise BackdropError(f"{name} is no readable image ({one_line(fault)}); replace or remove it") from fault


def _decoded_image(source: bytes | Path, turned: int | None = None) -> Image.Image:
    """As `open_image`, with Pillow's exceptions. turned: its orientation, if the file does not say it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow's: metadata does not matter, and large images are refused by name
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(stream, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            turn = _TURNS.get(turned or orientation(image))
            return image.copy() if turn is None else image.transpose(turn)


def _without_end(data: bytes) -> Image.Image:
    """A JPEG file that lacks its end marker, if it lacks nothing else.

    Bits that follow the last pixel change nothing. If pixels are missing, the bits stand for them.

    Raises:
        ValueError: pixels are missing.
    """
    data = data.rstrip(b"\xff")  # half of the marker
    whole, *others = (_decoded_image(data + bits + JPEG_END) for bits in (b"", b"\xaa" * 64, b"\x55" * 64))
    if any(other.tobytes() != whole.tobytes() for other in others):
        raise ValueError("cut off")
    return whole


def decode_image(source: bytes | Path, name: str | None = None) -> RGB:
    """An image of any common format as RGB, 8 bits: gray repeated, 16 bits scaled, palette looked up, alpha ignored.

    Raises:
        BackdropError: as `open_image`, and for floating-point images, whose range nobody knows.
    """
    return rgb(open_image(source, name), name or (show(source) if isinstance(source, Path) else "image"))


def rgb(image: Image.Image, label: str) -> RGB:
    """A Pillow image as RGB, 8 bits (see `decode_image`).

    Args:
        label: names it in the error.
    """
    if image.mode == "F":
        raise BackdropError(f"{label} holds floating-point values; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16-bit gray, also where Pillow widens it to 32
        gray = np.asarray(image).astype(np.float64)
        eight = np.clip(np.rint(gray / 257), 0, 255).astype(np.uint8)
        return np.repeat(eight[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def resize(image: RGB, size: tuple[int, int] | None) -> UInt8[np.ndarray, "h w 3"]:
    """The image at size (width, height), by area averaging when it shrinks; None keeps it as it is."""
    height, width = image.shape[:2]
    if size is None or tuple(size) == (width, height):
        return image
    shrinks = size[0] <= width and size[1] <= height
    return cv2.resize(image, tuple(size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]


def encode_jpeg(image: RGB, quality: int = 95) -> bytes:
    """JPEG bytes of an RGB image; quality 1..100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of gray (H, W) or RGB (H, W, 3), uint8 or uint16, lossless."""
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return bytes(cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 4])[1])


def decode_stored(data: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray | None:
    """The picture of an archive's entry, BGR unless `flags` say RGB; None where the bytes are not a picture."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # no byte at all, or a header of gigapixels
        return None
