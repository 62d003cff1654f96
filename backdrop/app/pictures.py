"""Pictures that are written while segmenting: masks, overlays, soft masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backdrop.app.reader import Found
from backdrop.app.records import Record
from backdrop.app.sources import Source
from backdrop.draw import Picture, draw_mask
from backdrop.io.files import atomic_path
from backdrop.io.images import encode_jpeg, encode_png
from backdrop.networks.predictor import Prediction

PICTURES = ("masks", "overlay", "npz")
"""Their kinds. They need the image or the soft mask, which no record holds; so only `predict` writes them."""

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
"""RGB, of the subjects 1, 2, ...; after the last color comes the first."""


def picture_path(out: Path, kind: str, source: Source, frame: int) -> Path:
    """Where a picture lies: <out>/masks/<name>.png of an image, <out>/masks/<name>/000000.png of a video.

    The other kinds are .jpg (overlay) and .npz (soft masks).
    """
    suffix = {"masks": ".png", "overlay": ".jpg", "npz": ".npz"}[kind]
    if not source.video:
        return out / kind / f"{source.name}{suffix}"
    return out / kind / source.name / f"{frame:06d}{suffix}"


@dataclass(frozen=True)
class Pictures:
    """The pictures of a source, which lie in an output folder. kinds: of `PICTURES`, what is wanted."""

    out: Path
    source: Source
    kinds: Sequence[str]

    def missing(self, record: Record) -> bool:
        """Whether a frame lacks one of its pictures."""
        return not all(picture_path(self.out, kind, self.source, record.frame).is_file() for kind in self.kinds)

    def remove(self) -> None:
        """Remove the source's pictures of every kind: they are of what its file held before."""
        for path in self._present():
            path.unlink()
            if self.source.video and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def rename(self, name: str) -> None:
        """Move the pictures of every kind to where those of a source of this name lie; what lies there goes."""
        renamed = self.source._replace(name=name)
        Pictures(self.out, renamed, ()).remove()
        for path in self._present():
            kind = path.relative_to(self.out).parts[0]
            new = picture_path(self.out, kind, renamed, int(path.stem) if self.source.video else 0)
            new.parent.mkdir(parents=True, exist_ok=True)
            path.rename(new)

    def _present(self) -> list[Path]:
        paths = [picture_path(self.out, kind, self.source, 0) for kind in PICTURES]
        if not self.source.video:
            return [path for path in paths if path.is_file()]
        return [frame for path in paths for frame in path.parent.glob(f"{'[0-9]' * 6}*{path.suffix}")]

    def write(self, found: Found, record: Record) -> None:
        """Write the pictures of a frame. A killed process leaves none half written.

        Raises:
            WriteError: the disk takes no more, or does not allow it.
        """
        for kind in self.kinds:
            with atomic_path(picture_path(self.out, kind, self.source, record.frame)) as temporary:
                if kind == "masks":
                    temporary.write_bytes(_mask_png(record))
                elif kind == "overlay":
                    temporary.write_bytes(encode_jpeg(draw_record(found.frame.image, record)))
                else:
                    _write_soft_mask(temporary, found.prediction, record)


def _mask_png(record: Record) -> bytes:
    """Values are 0 and 255; where subjects have numbers, these."""
    return encode_png(record.decoded().astype(np.uint8) * 255 if record.instances is None else record.labels())


def _write_soft_mask(path: Path, prediction: Prediction, record: Record) -> None:
    soft = prediction.mask.astype(np.float16)
    with path.open("wb") as stream:
        np.savez_compressed(stream, mask=soft, box=prediction.box, p=prediction.p, instances=record.labels())


def draw_record(image: Picture, record: Record) -> Picture:
    """The image with its mask drawn in. Subjects with numbers have a color each."""
    if record.instances is None:
        return draw_mask(image, record.decoded())
    for part in record.instances:
        image = draw_mask(image, part.decoded(), SUBJECT_COLORS[(part.number - 1) % len(SUBJECT_COLORS)])
    return image
