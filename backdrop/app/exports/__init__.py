"""Exports: records in the formats of other tools. A new export is a file here and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from backdrop.app.exports.coco import write_coco
from backdrop.app.exports.common import DEFAULTS, Export, ExportChoices, Faults, Recorded, without_specks
from backdrop.app.exports.cutouts import write_alpha, write_background, write_cutout
from backdrop.app.exports.davis import write_davis
from backdrop.app.exports.labelstudio import write_labelstudio
from backdrop.app.exports.table import write_csv
from backdrop.app.exports.tracks import steadied, write_cvat, write_labelstudio_video
from backdrop.app.exports.video import write_video
from backdrop.app.exports.yolo import write_yolo
from backdrop.errors import BackdropError, WriteError

FORMATS: dict[str, Export] = {
    "coco": write_coco,
    "davis": write_davis,
    "yolo": write_yolo,
    "labelstudio": write_labelstudio,
    "csv": write_csv,
    "cutout": write_cutout,
    "alpha": write_alpha,
    "background": write_background,
    "cvat": write_cvat,
    "labelstudio-video": write_labelstudio_video,
    "video": write_video,
}
"""Format -> what writes it. It writes below <folder>/<format>/, or <folder>/<format>.json and .xml."""


def export_all(
    found: Sequence[Recorded], folder: Path, formats: Collection[str], choices: ExportChoices = DEFAULTS
) -> tuple[dict[str, list[Path]], Faults]:
    """Write several formats, and return the files of each, and the faults of sources and formats that are left out.

    Raises:
        WriteError: the folder cannot be written.
    """
    written: dict[str, list[Path]] = {}
    faults: Faults = []
    swept = without_specks(found, choices.min_area) if formats else []
    swept = steadied(swept) if choices.steady else swept
    for name in formats:
        try:
            written[name] = FORMATS[name](swept, folder, choices, faults)
        except WriteError:
            raise
        except BackdropError as fault:
            faults.append(fault)
    return written, list({str(fault): fault for fault in faults}.values())
