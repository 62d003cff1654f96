"""Pictures that are written while segmenting: masks, overlays, soft masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backdrop.app.records import Record, Records
from backdrop.app.sources import Frame, Source
from backdrop.draw import Picture, draw_mask
from backdrop.io.files import atomic_path
from backdrop.io.images import encode_jpeg, encode_png
from backdrop.networks.predictor import Prediction

PICTURES = ("masks", "overlay", "npz")
"""What is written while segmenting."""

SUBJECT_COLORS = [
    (236, 95, 103),
    (102, 153, 204),
    (250, 200, 99),
    (153, 199, 148),
    (197, 148, 197),
    (98, 179, 178),
    (249, 145, 87),
    (171, 121, 103),
]
"""Of the subjects' numbers 1, 2, ..., begun again after the last."""


def picture_path(out: Path, kind: str, source: Source, frame: int) -> Path:
    """<out>/masks/<name>.png of an image, <out>/masks/<name>/000000.png of a video; overlay .jpg, soft masks .npz."""
    suffix = {"masks": ".png", "overlay": ".jpg", "npz": ".npz"}[kind]
    if not source.video:
        return out / kind / f"{source.name}{suffix}"
    return out / kind / source.name / f"{frame:06d}{suffix}"


def with_pictures(records: Records, out: Path, source: Source, pictures: Sequence[str]) -> Records:
    """The records up to the first frame that lacks one of the pictures asked for."""
    kept = []
    for record in records.frames:
        if not all(picture_path(out, kind, source, record.frame).is_file() for kind in pictures):
            break
        kept.append(record)
    return records._replace(frames=kept)


def write_pictures(
    out: Path, source: Source, frame: Frame, prediction: Prediction, record: Record, pictures: Sequence[str]
) -> None:
    for kind in pictures:
        path = picture_path(out, kind, source, frame.number)
        with atomic_path(path) as temporary:
            if kind == "masks":
                told_apart = record.instances is not None
                temporary.write_bytes(
                    encode_png(record.labels() if told_apart else record.decoded().astype(np.uint8) * 255)
                )
            elif kind == "overlay":
                temporary.write_bytes(encode_jpeg(drawn(frame.image, record)))
            else:
                soft = prediction.mask.astype(np.float16)
                with temporary.open("wb") as stream:
                    np.savez_compressed(
                        stream, mask=soft, box=prediction.box, p=prediction.p, instances=record.labels()
                    )


def drawn(image: Picture, record: Record) -> Picture:
    """The image with its mask drawn in, each subject that was told apart in a color of its own."""
    if record.instances is None:
        return draw_mask(image, record.decoded())
    for part in record.instances:
        image = draw_mask(image, part.decoded(), SUBJECT_COLORS[(part.number - 1) % len(SUBJECT_COLORS)])
    return image
