"""Export davis: PNG files with a palette, in the layout of the DAVIS data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from backdrop.app.exports.common import Recorded
from backdrop.app.pictures import SUBJECT_COLORS
from backdrop.io.files import atomic_path

PALETTE = [0, 0, 0, *(value for i in range(255) for value in SUBJECT_COLORS[i % len(SUBJECT_COLORS)])]
"""RGB of the values 0, 1, ...: background black, the first subject red, as in the data set."""


def write_davis(found: Sequence[Recorded], folder: Path) -> list[Path]:
    """Write <folder>/davis/Annotations/<sequence>/<frame>.png, whose values are the subjects' numbers.

    A video is a sequence; so are the images of one folder.
    """
    written = []
    for source, records in found:
        for record in records.frames:
            name = f"{source.name}/{record.frame:05d}.png" if source.video else f"{source.name}.png"
            path = folder / "davis" / "Annotations" / name
            picture = Image.fromarray(record.labels(), mode="P")
            picture.putpalette(PALETTE)
            with atomic_path(path) as temporary:
                picture.save(temporary, format="PNG")
            written.append(path)
    return written
