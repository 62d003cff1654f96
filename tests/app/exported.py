"""Records of footage with known masks, for the tests of exports: no model is asked."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from backdrop.app.records import (
    Ending,
    Record,
    Records,
    Settings,
    SubjectRecord,
    content_header,
    encoded,
    records_path,
    write_records,
)
from backdrop.app.sources import Source, find_sources
from backdrop.io.masks import Mask
from backdrop.video.encode import encode_video
from tests.backdrop_command import call

WIDTH, HEIGHT, FRAMES, FPS = 160, 120, 12, 10
GREEN, RED = (20, 90, 30), (230, 40, 40)
IMAGES = ["a.png", "below/c d#.png", "below/turned.jpg", *(f"run/frame_{t:06d}.jpg" for t in range(FRAMES))]
"""The material's frames, as exports name them."""


def subject_mask(t: int) -> Mask:
    """A disk and a bar beside it, which move to the right. In frames 5 and 6 there is none."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if t not in (5, 6):
        cv2.circle(mask, (40 + 5 * t, 50), 16, 1, -1)
        cv2.rectangle(mask, (34 + 5 * t, 75), (46 + 5 * t, 95), 1, -1)
    return mask > 0


def picture(mask: Mask) -> np.ndarray:
    return np.where(mask[..., None], np.uint8(RED), np.uint8(GREEN)).astype(np.uint8)


def write_material(folder: Path) -> Path:
    """A video, an image, a turned one in a folder, and one of a name with a space."""
    (folder / "below").mkdir(parents=True)
    encode_video(folder / "run.mp4", [picture(subject_mask(t)) for t in range(FRAMES)], fps=FPS, quality=98)
    Image.fromarray(picture(subject_mask(0))).save(folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(picture(subject_mask(1)))))
    turned.save(folder / "below" / "turned.jpg", exif=exif, quality=98)
    Image.fromarray(picture(subject_mask(2))).save(folder / "below" / "c d#.png")
    return folder


def write_results(folder: Path, out: Path, specks: int = 0, subjects: int | None = None) -> Path:
    """What `predict` would leave of that material.

    Args:
        specks: pixels of a second, wrong part of each mask.
        subjects: 2: disk and bar are one each. None: masks are not divided.
    """
    (out / "records").mkdir(parents=True)
    (out / ".lock").touch()
    for source in find_sources([folder]):
        times = {"a": [0], "below/turned": [1], "below/c d#": [2]}.get(source.name, list(range(FRAMES)))
        frames = [_record(i, t, specks, subjects) for i, t in enumerate(times)]
        header = Settings("model", 0.5, None, instances=subjects).header(source) | content_header(source.path, {})
        path = records_path(out, source)
        path.parent.mkdir(exist_ok=True)
        write_records(path, Records(header, frames, True, Ending(FRAMES / FPS if source.video else 0.0)))
    return out


def _record(number: int, t: int, specks: int, subjects: int | None) -> Record:
    mask = subject_mask(t)
    mask[0, :specks] = True
    parts = None
    if subjects:
        halves = [mask & (np.arange(HEIGHT)[:, None] < 70), mask & (np.arange(HEIGHT)[:, None] >= 70)]
        parts = tuple(
            SubjectRecord(i, (0.0, 0.0, 1.0, 1.0), 0.9, encoded(half)) for i, half in enumerate(halves, 1) if half.any()
        )
    box = (0.0, 0.0, float(WIDTH), float(HEIGHT))
    return Record(number, number / FPS, (WIDTH, HEIGHT), box, 0.8, 0.9, encoded(mask), parts)


def mask_of(source: Source, frame: int) -> Mask:
    return subject_mask({"a": 0, "below/turned": 1, "below/c d#": 2}.get(source.name, frame))


def export(done: Path, *words: object) -> Path:
    """The folder that a call of the command wrote into."""
    out = done.parent / "exported"
    status, said = call("export", done, "-o", out, *words)
    assert status == 0, said
    return out


def iou(one: np.ndarray, other: np.ndarray) -> float:
    union = np.sum(one | other)
    return float(np.sum(one & other) / union) if union else 1.0
