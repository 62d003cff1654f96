"""Export davis: PNG files with a palette, in the layout of the DAVIS data set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from backdrop.app.exports.common import DEFAULTS, ExportChoices, Faults, Files, Recorded, write_each
from backdrop.app.pictures import SUBJECT_COLORS
from backdrop.app.records import Records
from backdrop.app.sources import Source, same_on_any_disk

PALETTE = [0, 0, 0, *(value for i in range(255) for value in SUBJECT_COLORS[i % len(SUBJECT_COLORS)])]
"""RGB of the values 0, 1, ...: background black, the first subject red, as in the data set."""


def write_davis(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/davis/Annotations/<sequence>/<frame>.png, whose values are the subjects' numbers.

    A video is a sequence; so are the images of one folder. Images that lie in no folder below the input are the
    sequence that is named after the folder they lie in.
    """
    taken = {same_on_any_disk(s.name.partition("/")[0]) for s, _ in found if s.video or "/" in s.name}

    def files(source: Source, records: Records) -> Files:
        name = source.name if source.video or "/" in source.name else f"{_free(source, taken)}/{source.name}"
        for record in records.frames:
            picture = Image.fromarray(record.labels(), mode="P")
            picture.putpalette(PALETTE)
            path = f"{name}/{record.frame:05d}.png" if source.video else f"{name}.png"
            yield folder / "davis" / "Annotations" / path, partial(picture.save, format="PNG")

    return write_each(found, faults, files)


def _free(source: Source, taken: set[str]) -> str:
    """The name of the folder that an image lies in; with "_" behind it, where others have that name."""
    name = source.path.parent.name or "images"
    while same_on_any_disk(name) in taken:
        name += "_"
    return name
