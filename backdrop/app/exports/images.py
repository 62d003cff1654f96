"""The frames that lie beside labels, so that other tools open both."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from backdrop.app.exports.common import Faults, Files, Recorded, frames_with_records, write_each
from backdrop.app.records import Record, Records
from backdrop.app.sources import Source
from backdrop.io.image_metadata import orientation
from backdrop.io.images import RGB


def write_images(
    found: Sequence[Recorded], folder: Path, name: Callable[[Source, Record], str], faults: Faults | None = None
) -> tuple[list[Recorded], list[Path]]:
    """Write each frame as <folder>/<name>, and return the sources of which all could be written, and the files.

    A frame of a video becomes a JPEG. An image is copied; one that its metadata turns is written upright, as masks are,
    because not every tool turns it.

    Raises:
        WriteError: the folder cannot be written.
        BackdropError: without `faults`, of the first source that cannot be read or has changed.
    """

    def files(source: Source, records: Records) -> Files:
        for image, record in frames_with_records(source, records):
            path = folder / name(source, record)
            if source.video or _is_turned(source.path):
                yield path, partial(_save, image)
            else:
                yield path, partial(shutil.copyfile, source.path)

    kept, written = [], []
    for one in found:
        before = len(faults or ())
        written += write_each([one], faults, files)
        if len(faults or ()) == before:
            kept.append(one)
    return kept, written


def _is_turned(path: Path) -> bool:
    """Whether other tools may show it otherwise: its metadata turns it, or is damaged."""
    try:
        with Image.open(path) as image:
            return orientation(image) != 1
    except Exception:  # Pillow's decoders raise a dozen kinds; here, the pixels were read without the metadata
        return True


def _save(image: RGB, path: Path) -> None:
    Image.fromarray(image).save(path, quality=95)
