"""Pictures of what was found: detections the papers' way, masks, contact sheets.

Cell probabilities are blue dots at the cells' centers whose area is the probability, the chosen
box is dashed red, a green line runs from the chosen cell to its box's center. Foreground is
tinted, with a light contour. Images are RGB, uint8, (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from backdrop.masks import Box, MaskArchive, Predictions, box_pixels, resize_mask, split_truth
from backdrop.video import FrameArchive, atomic_path, encode_png

if TYPE_CHECKING:
    import pandas as pd

Picture = UInt8[np.ndarray, "_ _ 3"]  # RGB; functions here change its size

BLUE, RED, GREEN = (40, 110, 255), (255, 45, 45), (60, 230, 90)
TINT, TRUTH, VOID_COLOR = (255, 150, 20), (40, 200, 120), (150, 150, 150)
INK, PAPER = (40, 40, 40), (255, 255, 255)
SHEET_WIDTH, COLUMNS, MARGIN, GAP, HEADER, CAPTION = 1280, 6, 26, 5, 30, 22
SUPERSAMPLING = 3
"""Thumbnails are drawn this much larger, so that thin lines survive."""
_SHIFT = 4  # OpenCV draws at sixteenths of a pixel


def to_rgb(image: Picture | Float[np.ndarray, "_ _ 3"]) -> Picture:
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
    width: int | None = 640,
    thickness: float = 1.0,
) -> Picture:
    """The papers' picture of a detection.

    Args:
        image: Picture, uint8 or floats in [0, 1].
        box: cx, cy, w, h in image coordinates, [-1, 1].
        cell: index of the chosen cell, row-major.
        p: the cells' probabilities.
        mask: of the whole image, boolean or in [0, 1]; foreground (above one half) is tinted.
        width: of the picture in pixels (drawing on a thumbnail would bury it); None keeps the image's.
        thickness: of lines and dots; 1 suits a picture seen at its own size.
    """
    picture = _scaled(to_rgb(image), width)
    if mask is not None:
        picture = draw_mask(picture, np.asarray(mask) > 0.5)
    size = (picture.shape[1], picture.shape[0])
    stroke = max(1, round(thickness * size[0] / 260))
    _draw_cells(picture, p, thickness * size[0] / 500)
    if np.isfinite(box).all():
        rows, columns = p.shape
        start = ((cell % columns + 0.5) / columns * size[0], (cell // columns + 0.5) / rows * size[1])
        left, top, right, bottom = box_pixels(box, size)
        _line(picture, start, ((left + right) / 2, (top + bottom) / 2), GREEN, stroke)
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


def _scaled(image: UInt8[np.ndarray, "_ _ ..."], width: int | None) -> UInt8[np.ndarray, "_ _ ..."]:
    """A copy at this width, in proportion."""
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
            _line(picture, start, end, color, stroke)


def _line(
    picture: Picture, start: tuple[float, float], end: tuple[float, float], color: tuple[int, int, int], stroke: int
) -> None:
    cv2.line(picture, _fixed(start), _fixed(end), color, stroke, cv2.LINE_AA, _SHIFT)


def _fixed(point: tuple[float, float]) -> tuple[int, int]:
    """A point measured from the image's edge, in OpenCV's fixed point (where the first pixel's center is 0)."""
    return round((point[0] - 0.5) * (1 << _SHIFT)), round((point[1] - 0.5) * (1 << _SHIFT))


# Contact sheets ---------------------------------------------------------------------------------------


def contact_sheet(
    title: str,
    frames: FrameArchive,
    predictions: Predictions | None = None,
    masks: MaskArchive | None = None,
    scores: Mapping[int, float] | None = None,
) -> Picture:
    """Frames of a sequence side by side: detection, soft mask, final mask, and ground truth where there is any.

    Args:
        title: heads the sheet.
        scores: J of the final mask by frame, written above its column.
    """
    chosen = _spread(frames, scores or {})
    width = (SHEET_WIDTH - MARGIN - GAP * COLUMNS) // COLUMNS
    has_truth = any(frames.has_mask(t) for t in chosen)
    rows = ["detection", "soft mask", "final mask"] + ["ground truth"] * has_truth
    columns = [_panels(t, frames, predictions, masks, width)[: len(rows)] for t in chosen]
    height = max(panel.shape[0] for panel in columns[0])
    sheet = Image.new("RGB", (SHEET_WIDTH, HEADER + CAPTION + len(rows) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 6), title, fill=INK, font=_font(17))
    for i, (t, panels) in enumerate(zip(chosen, columns, strict=True)):
        x = MARGIN + i * (width + GAP)
        draw.text((x + 1, HEADER + 3), f"frame {frames.names[t]}", fill=INK, font=_font(13))
        if scores is not None and t in scores:
            draw.text((x + width - 5, HEADER + 3), f"J {scores[t]:.2f}", fill=INK, font=_font(13), anchor="ra")
        for j, panel in enumerate(panels):
            sheet.paste(Image.fromarray(panel), (x, HEADER + CAPTION + j * (height + GAP)))
    for j, row in enumerate(rows):
        sheet.paste(_upright(row, height), (4, HEADER + CAPTION + j * (height + GAP)))
    return np.asarray(sheet)


def _spread(frames: FrameArchive, scores: Mapping[int, float]) -> list[int]:
    """Evenly spaced frames: of those with a score, else with ground truth, if they fill a sheet; else of all."""
    count = min(COLUMNS, len(frames))
    everything = list(range(len(frames)))
    preferred = (sorted(scores), [t for t in everything if frames.has_mask(t)], everything)
    candidates = next(some for some in preferred if len(some) >= count)
    return [candidates[round(place)] for place in np.linspace(0, len(candidates) - 1, count)]


def _panels(
    t: int, frames: FrameArchive, predictions: Predictions | None, masks: MaskArchive | None, width: int
) -> list[Picture]:
    """A column of the sheet: four pictures of this width. What is missing stays gray."""
    image = _scaled(frames.image(t), width * SUPERSAMPLING)
    empty = np.full_like(image, 225)
    detection, soft, final, truth = image, empty, empty, empty
    if predictions is not None and predictions.has(t):
        box, cell, p = predictions.box[t], int(predictions.cell[t]), predictions.p[t]
        detection = draw_detection(image, box, cell, p, width=None, thickness=1.7)
        soft = np.repeat(_scaled(predictions.gray(t), image.shape[1])[:, :, None], 3, axis=2)
    if masks is not None and masks.has(t):
        final = draw_mask(image, masks.gray(t) > 127)
    stored = frames.mask(t)
    if stored is not None:
        foreground, void = split_truth(stored)
        truth = draw_mask(image, foreground, TRUTH)
        truth = truth if void is None else draw_mask(truth, void, VOID_COLOR)
    return [_scaled(panel, width) for panel in (detection, soft, final, truth)]


def frame_sheet(rows: Mapping[str, Sequence[tuple[str, Picture]]], width: int = 300) -> Picture:
    """Pictures with captions, a row a sequence under its name.

    Args:
        rows: name -> (caption, picture). width: of a picture on the sheet, in pixels.
    """
    small = {name: [(text, _scaled(picture, width)) for text, picture in row] for name, row in rows.items()}
    heights = [max((picture.shape[0] for _, picture in row), default=0) for row in small.values()]
    columns = max((len(row) for row in small.values()), default=1)
    size = (GAP + columns * (width + GAP), sum(height + HEADER + CAPTION for height in heights))
    sheet = Image.new("RGB", size, PAPER)
    draw, y = ImageDraw.Draw(sheet), 0
    for (name, row), height in zip(small.items(), heights, strict=True):
        draw.text((GAP, y + 6), name, fill=INK, font=_font(17))
        for i, (text, picture) in enumerate(row):
            x = GAP + i * (width + GAP)
            draw.text((x + 1, y + HEADER + 2), text, fill=INK, font=_font(13))
            sheet.paste(Image.fromarray(picture), (x, y + HEADER + CAPTION))
        y += height + HEADER + CAPTION
    return np.asarray(sheet)


def _upright(text: str, length: int) -> Image.Image:
    """A row's name, read from below, centered over the row's height."""
    label = Image.new("RGB", (length, MARGIN - 6), PAPER)
    ImageDraw.Draw(label).text((length / 2, 2), text, fill=INK, font=_font(13), anchor="ma")
    return label.rotate(90, expand=True)


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # comes with Pillow: no font of the machine is needed


def contact_sheet_all(
    frames_dir: str | Path,
    predictions_dir: str | Path,
    masks_dir: str | Path,
    out_dir: str | Path,
    sequences: Sequence[str],
    per_frame: pd.DataFrame | None = None,
) -> list[Path]:
    """`out_dir`/<sequence>.png for each sequence that has predictions.

    Args:
        per_frame: the table of scores by frame (sequence, frame, result, J): J of the result `method`
            is written into the sheets.
    """
    paths = []
    for name in sequences:
        found = [Path(folder) / f"{name}.zip" for folder in (predictions_dir, masks_dir)]
        if not found[0].is_file():
            continue
        scores: dict[int, float] = {}
        if per_frame is not None and len(per_frame):
            part = per_frame[(per_frame["sequence"] == name) & (per_frame["result"] == "method")]
            scores = dict(zip(part["frame"].astype(int), part["J"].astype(float), strict=True))
        masks = MaskArchive(found[1]) if found[1].is_file() else None
        sheet = contact_sheet(
            name, FrameArchive(Path(frames_dir) / f"{name}.zip"), Predictions(found[0]), masks, scores
        )
        path = Path(out_dir) / f"{name}.png"
        with atomic_path(path) as temporary:
            temporary.write_bytes(encode_png(sheet))
        paths.append(path)
    return paths
