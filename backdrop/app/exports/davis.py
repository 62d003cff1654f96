"""Export davis: palette PNG in the DAVIS layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from backdrop.app.pictures import SUBJECT_COLORS
from backdrop.app.records import Records
from backdrop.app.sources import Source
from backdrop.io.files import atomic_path

PALETTE = [0, 0, 0, *(value for i in range(255) for value in SUBJECT_COLORS[i % len(SUBJECT_COLORS)])]
"""Colors of a DAVIS annotation: background black, the first subject red, as in the data set."""


def write_davis(out: Path, found: Sequence[tuple[Source, Records]], folder: Path) -> list[Path]:
    """`davis`/Annotations/<sequence>/<frame>.png with a palette, values are the subjects' numbers; images of one folder
    are one sequence."""
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
