"""Drawing: detections the papers' way, masks, sheets of frames with captions.

Cell probabilities are blue dots at the centers of the cells: a dot's area is the probability. The chosen box is dashed
red. A green line runs from the chosen cell to the center of its box. Foreground is tinted, with a light contour. Images
are RGB, uint8, (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from backdrop.io.masks import Box, box_pixels, resize_mask

Picture = UInt8[np.ndarray, "_ _ 3"]  # RGB; functions here change its size

BLUE, RED, GREEN = (40, 110, 255), (255, 45, 45), (60, 230, 90)

TINT, TRUTH, VOID_COLOR = (255, 150, 20), (40, 200, 120), (150, 150, 150)

INK, PAPER = (40, 40, 40), (255, 255, 255)

SHEET_WIDTH, SHEET_COLUMNS, SHEET_MARGIN, SHEET_GAP, SHEET_HEADER, SHEET_CAPTION = 1280, 6, 26, 5, 30, 22

_SHIFT = 4  # OpenCV draws at sixteenths of a pixel


def to_bytes(image: Picture | Float[np.ndarray, "_ _ 3"]) -> Picture:
    """An image of uint8, or of floats in [0, 1], as uint8."""
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    return np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)


def draw_detection(
    image: Picture | Float[np.ndarray, "_ _ 3"],
    box: Box,
    cell: int,
    p: Float[np.ndarray, "rows columns"],
    mask: Float[np.ndarray, "_ _"] | Bool[np.ndarray, "_ _"] | None = None,
    *,
    width: int | None = 640,
    thickness: float = 1.0,
) -> Picture:
    """The papers' picture of a detection.

    Args:
        image: uint8, or floats in [0, 1].
        box: cx, cy, w, h in image coordinates, [-1, 1]. A box that is not finite is not drawn.
        cell: index of the chosen cell, row-major.
        p: the cells' probabilities.
        mask: of the complete image, boolean or in [0, 1]; foreground (above one half) is tinted.
        width: of the picture in pixels, since lines would cover a thumbnail; None keeps the image's width.
        thickness: of lines and dots; 1 suits a picture seen at its own size.
    """
    picture = scaled_picture(to_bytes(image), width)
    if mask is not None:
        picture = draw_mask(picture, np.asarray(mask) > 0.5)
    size = (picture.shape[1], picture.shape[0])
    stroke = max(1, round(thickness * size[0] / 260))
    _draw_cells(picture, p, thickness * size[0] / 500)
    if np.isfinite(box).all():
        rows, columns = p.shape
        start = ((cell % columns + 0.5) / columns * size[0], (cell // columns + 0.5) / rows * size[1])
        left, top, right, bottom = box_pixels(box, size)
        _draw_line(picture, start, ((left + right) / 2, (top + bottom) / 2), GREEN, stroke)
        _dashed_rectangle(picture, (left, top, right, bottom), RED, stroke)
    return picture


def draw_mask(
    image: Picture, mask: Bool[np.ndarray, "_ _"], color: tuple[int, int, int] = TINT, opacity: float = 0.45
) -> Picture:
    """The image with the foreground tinted and outlined; the mask may have another size."""
    size = (image.shape[1], image.shape[0])
    inside = resize_mask(mask, size)
    picture = image.copy()
    picture[inside] = np.rint(picture[inside] * (1 - opacity) + np.array(color) * opacity).astype(np.uint8)
    # the contour of the smoothed edge at the picture's resolution, not the staircase of a small mask
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours((soft > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    stroke = max(1, round(size[0] / 320))
    light = tuple(int(255 - (255 - c) * 0.35) for c in color)
    cv2.drawContours(picture, contours, -1, light, stroke, cv2.LINE_AA)
    return picture


def scaled_picture(image: UInt8[np.ndarray, "_ _ ..."], width: int | None) -> UInt8[np.ndarray, "_ _ ..."]:
    """A copy at this width in pixels, in proportion; None keeps the width."""
    if width is None or width == image.shape[1]:
        return image.copy()
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    smaller = width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)  # type: ignore[return-value]


def _draw_cells(picture: Picture, p: Float[np.ndarray, "rows columns"], smallest: float) -> None:
    rows, columns = p.shape
    height, width = picture.shape[:2]
    largest = 0.42 * min(width / columns, height / rows)  # radius of a cell that has all the probability
    for row, column in np.argwhere(p > 1e-4):
        center = ((column + 0.5) / columns * width, (row + 0.5) / rows * height)
        radius = max(smallest, largest * float(np.sqrt(p[row, column])))
        cv2.circle(picture, _fixed(center), round(radius * (1 << _SHIFT)), BLUE, -1, cv2.LINE_AA, _SHIFT)


def _dashed_rectangle(
    picture: Picture, edges: tuple[float, float, float, float], color: tuple[int, int, int], stroke: int
) -> None:
    # a box beyond the image is drawn along the image's edge, where it can be seen
    height, width = picture.shape[:2]
    inset = stroke / 2
    left, right = (min(max(x, inset), width - inset) for x in (edges[0], edges[2]))
    top, bottom = (min(max(y, inset), height - inset) for y in (edges[1], edges[3]))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = float(np.hypot(x1 - x0, y1 - y0))
        dashes = max(1, round(length / (7 * stroke)))
        for i in range(dashes):
            a, b = i / dashes, (i + 0.55) / dashes
            start, end = (x0 + (x1 - x0) * a, y0 + (y1 - y0) * a), (x0 + (x1 - x0) * b, y0 + (y1 - y0) * b)
            _draw_line(picture, start, end, color, stroke)


def _draw_line(
    picture: Picture, start: tuple[float, float], end: tuple[float, float], color: tuple[int, int, int], stroke: int
) -> None:
    cv2.line(picture, _fixed(start), _fixed(end), color, stroke, cv2.LINE_AA, _SHIFT)


def _fixed(point: tuple[float, float]) -> tuple[int, int]:
    """A point measured from the image's edge, in OpenCV's fixed point (where the first pixel's center is 0)."""
    return round((point[0] - 0.5) * (1 << _SHIFT)), round((point[1] - 0.5) * (1 << _SHIFT))


@lru_cache(maxsize=4)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # comes with Pillow: no font of the machine is needed


def frame_sheet(rows: Mapping[str, Sequence[tuple[str, Picture]]], width: int = 300) -> Picture:
    """Pictures with captions, a row per sequence under its name.

    Args:
        rows: name -> (caption, picture). width: of a picture on the sheet, in pixels.
    """
    small = {name: [(text, scaled_picture(picture, width)) for text, picture in row] for name, row in rows.items()}
    heights = [max((picture.shape[0] for _, picture in row), default=0) for row in small.values()]
    columns = max((len(row) for row in small.values()), default=1)
    size = (SHEET_GAP + columns * (width + SHEET_GAP), sum(height + SHEET_HEADER + SHEET_CAPTION for height in heights))
    sheet = Image.new("RGB", size, PAPER)
    draw, y = ImageDraw.Draw(sheet), 0
    for (name, row), height in zip(small.items(), heights, strict=True):
        draw.text((SHEET_GAP, y + 6), name, fill=INK, font=font(17))
        for i, (text, picture) in enumerate(row):
            x = SHEET_GAP + i * (width + SHEET_GAP)
            draw.text((x + 1, y + SHEET_HEADER + 2), text, fill=INK, font=font(13))
            sheet.paste(Image.fromarray(picture), (x, y + SHEET_HEADER + SHEET_CAPTION))
        y += height + SHEET_HEADER + SHEET_CAPTION
    return np.asarray(sheet)
