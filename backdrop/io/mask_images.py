"""Masks that are images: ground truth as data sets store it, and masks that people drew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from backdrop.errors import BackdropError
from backdrop.io.files import show
from backdrop.io.images import Gray, decode_image, open_image
from backdrop.io.masks import BACKGROUND, FOREGROUND, VOID

GRAY_TINT = 8
"""Gray levels by which channels of a gray image may differ: JPEG tints by a little."""


def decode_mask(source: bytes | Path, rule: str = "any", name: str | None = None) -> Gray:
    """A mask of a data set as (H, W) uint8: 0 background, 255 foreground, 128 void (ignored when scoring).

    Rules:
        any: palette images: index 0 background, 255 void where its color is not white (as VOC has it), others
            foreground. Gray images (or RGB with equal channels): if all values are below 128 they are labels,
            and all but 0 are foreground; else 128 is void, less background, more foreground.
        instances: all but 0 is foreground.
        cdnet: 0 background, 50 shadow (background), 85 outside the region and 170 unknown (void), 255 foreground.
        over200: values over 200 are foreground; for masks stored as JPEG.

    Raises:
        BackdropError: unreadable, colored, or values that the rule does not know; the message names the mask.
    """
    name = name or (show(source) if isinstance(source, Path) else "mask")
    image = open_image(source, name)
    values = _labels(image, name)
    if rule == "instances":
        return _two_valued(values > 0)
    if rule == "over200":
        return _two_valued(values > 200)
    if rule == "cdnet":
        unknown = np.setdiff1d(values, (0, 50, 85, 170, 255))
        if unknown.size:
            raise BackdropError(f"mask {name} has the value {unknown[0]}; CDnet's labels are 0, 50, 85, 170, 255")
        mask = _two_valued(values == 255)
        mask[(values == 85) | (values == 170)] = VOID
        return mask
    if rule != "any":
        raise ValueError(f"unknown mask rule {rule!r}")
    if image.mode == "P" or values.max() < 128:
        mask = _two_valued(values > 0)
        if image.mode == "P" and (image.getpalette("RGB") or [])[765:768] not in ([], [255, 255, 255]):
            mask[values == 255] = VOID
        return mask
    mask = _two_valued(values > 128)
    mask[values == 128] = VOID
    return mask


def decode_region(source: bytes | Path, name: str | None = None) -> Bool[np.ndarray, "H W"]:
    """A region of interest that somebody drew: True where the image is white (a gray level of 128 or more).

    Any image will do: gray, with a palette, RGB with equal channels, 16 bits; alpha is ignored.

    Raises:
        BackdropError: unreadable, colored, or without a white pixel; the message names it.
    """
    name = name or (show(source) if isinstance(source, Path) else "region")
    channels = decode_image(source, name)
    if (channels.max(axis=2) - channels.min(axis=2)).max() > GRAY_TINT:
        raise BackdropError(f"{name} is colored; draw a region of interest in white, and black where nothing counts")
    region = channels[:, :, 1] >= 128
    if not region.any():
        raise BackdropError(
            f"{name} has no white pixel (a gray level of 128 or more), so nothing would be left: white is the region "
            "of interest, black is ignored"
        )
    return region


def _two_valued(foreground: np.ndarray) -> Gray:
    return np.where(foreground, FOREGROUND, BACKGROUND).astype(np.uint8)


def _labels(image: Image.Image, name: str) -> np.ndarray:
    """(H, W) integers: palette indices, or gray values; 16-bit gray beyond 255 is scaled to 0..255."""
    if image.mode == "P":
        return np.asarray(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return values // 257 if values.max() > 255 else values
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    channels = np.asarray(image.convert("RGB")).astype(np.int16)
    if np.ptp(channels, axis=2).max() > GRAY_TINT:
        raise BackdropError(f"mask {name} is colored; save it as gray (0 background, 255 foreground) or with a palette")
    return channels[:, :, 0]
