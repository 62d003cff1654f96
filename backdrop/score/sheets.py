"""Contact sheets: frames of a sequence with detection, soft mask, final mask and ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from backdrop.draw import (
    INK,
    PAPER,
    SHEET_CAPTION,
    SHEET_COLUMNS,
    SHEET_GAP,
    SHEET_HEADER,
    SHEET_MARGIN,
    SHEET_WIDTH,
    TRUTH,
    VOID_COLOR,
    Picture,
    draw_detection,
    draw_mask,
    font,
    scaled_picture,
)
from backdrop.io.files import atomic_path
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.masks import MaskArchive, Predictions, split_truth
from backdrop.score.frame_scores import ScoreFolders
from backdrop.video.streamed import open_frames

SUPERSAMPLING = 3
"""Thumbnails are drawn this many times larger and then reduced, so that thin lines survive."""


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
    chosen = _spread_frames(frames, scores or {})
    width = (SHEET_WIDTH - SHEET_MARGIN - SHEET_GAP * SHEET_COLUMNS) // SHEET_COLUMNS
    has_truth = any(frames.has_mask(t) for t in chosen)
    rows = ["detection", "soft mask", "final mask"] + ["ground truth"] * has_truth
    columns = [_panels(t, frames, predictions, masks, width)[: len(rows)] for t in chosen]
    height = max(panel.shape[0] for panel in columns[0])
    sheet = Image.new("RGB", (SHEET_WIDTH, SHEET_HEADER + SHEET_CAPTION + len(rows) * (height + SHEET_GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((SHEET_MARGIN, 6), title, fill=INK, font=font(17))
    for i, (t, panels) in enumerate(zip(chosen, columns, strict=True)):
        x = SHEET_MARGIN + i * (width + SHEET_GAP)
        draw.text((x + 1, SHEET_HEADER + 3), f"frame {frames.names[t]}", fill=INK, font=font(13))
        if scores is not None and t in scores:
            draw.text((x + width - 5, SHEET_HEADER + 3), f"J {scores[t]:.2f}", fill=INK, font=font(13), anchor="ra")
        for j, panel in enumerate(panels):
            sheet.paste(Image.fromarray(panel), (x, SHEET_HEADER + SHEET_CAPTION + j * (height + SHEET_GAP)))
    for j, row in enumerate(rows):
        sheet.paste(_upright_label(row, height), (4, SHEET_HEADER + SHEET_CAPTION + j * (height + SHEET_GAP)))
    return np.asarray(sheet)


def _spread_frames(frames: FrameArchive, scores: Mapping[int, float]) -> list[int]:
    """Evenly spaced frames: of those with a score, else with ground truth, if they fill a sheet; else of all."""
    count = min(SHEET_COLUMNS, len(frames.pictured()))
    everything = list(frames.pictured())
    preferred = (sorted(scores), [t for t in range(len(frames)) if frames.has_mask(t)], everything)
    candidates = next(some for some in preferred if len(some) >= count)
    return [candidates[round(place)] for place in np.linspace(0, len(candidates) - 1, count)]


def _panels(
    t: int, frames: FrameArchive, predictions: Predictions | None, masks: MaskArchive | None, width: int
) -> list[Picture]:
    """A column of the sheet: four pictures of this width. What is missing stays gray."""
    image = scaled_picture(frames.picture(t), width * SUPERSAMPLING)
    empty = np.full_like(image, 225)
    detection, soft, final, truth = image, empty, empty, empty
    if predictions is not None and predictions.has(t):
        box, cell, p = predictions.box[t], int(predictions.cell[t]), predictions.p[t]
        detection = draw_detection(image, box, cell, p, width=None, thickness=1.7)
        soft = np.repeat(scaled_picture(predictions.gray(t), image.shape[1])[:, :, None], 3, axis=2)
    if masks is not None and masks.has(t):
        final = draw_mask(image, masks.gray(t) > 127)
    stored = frames.mask(t)
    if stored is not None:
        foreground, void = split_truth(stored)
        truth = draw_mask(image, foreground, TRUTH)
        truth = truth if void is None else draw_mask(truth, void, VOID_COLOR)
    return [scaled_picture(panel, width) for panel in (detection, soft, final, truth)]


def _upright_label(text: str, length: int) -> Image.Image:
    """A row's name, turned to be read from bottom to top, centered over the row's height."""
    label = Image.new("RGB", (length, SHEET_MARGIN - 6), PAPER)
    ImageDraw.Draw(label).text((length / 2, 2), text, fill=INK, font=font(13), anchor="ma")
    return label.rotate(90, expand=True)


def contact_sheet_all(
    folders: ScoreFolders, out_dir: Path, sequences: Sequence[str], per_frame: pd.DataFrame | None = None
) -> list[Path]:
    """Write `out_dir`/<sequence>.png for each sequence that has predictions; the paths.

    Args:
        per_frame: the table of scores by frame (sequence, frame, result, J): J of the result `method`
            is written into the sheets.

    Raises:
        BackdropError: an archive is damaged (it is named).
    """
    paths = []
    for name in sequences:
        predictions, final = folders.predictions / f"{name}.zip", folders.masks / f"{name}.zip"
        if not predictions.is_file():
            continue
        scores: dict[int, float] = {}
        if per_frame is not None and len(per_frame):
            part = per_frame[(per_frame["sequence"] == name) & (per_frame["result"] == "method")]
            scores = dict(zip(part["frame"].astype(int), part["J"].astype(float), strict=True))
        masks = MaskArchive(final) if final.is_file() else None
        frames = open_frames(folders.frames / f"{name}.zip")
        sheet = contact_sheet(name, frames, Predictions(predictions), masks, scores)
        path = out_dir / f"{name}.png"
        with atomic_path(path) as temporary:
            temporary.write_bytes(encode_png(sheet))
        paths.append(path)
    return paths
