"""Layout bms: Berkeley motion segmentation (BMS-26, FBMS-59)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from backdrop.frames.entries import nfc
from backdrop.frames.layouts.listing import Sequence, below, image_files, image_folder, subfolders
from backdrop.io.files import IMAGE_SUFFIXES


def list_bms(root: Path) -> list[Sequence]:
    """Each folder of images, with a mask .pgm beside some of them."""
    base = root / "moseg_dataset" if (root / "moseg_dataset").is_dir() else root
    suffixes = [s for s in IMAGE_SUFFIXES if s != ".pgm"]
    found = []
    for folder in subfolders(base):
        sequence = image_folder(folder, below(folder, root), None, suffixes, mask_rule="instances")
        number = {nfc(p.stem): i for i, p in enumerate(sequence.images)}
        masks = {number[nfc(p.stem)]: p for p in image_files(folder, [".pgm"]) if nfc(p.stem) in number}
        found.append(replace(sequence, masks=masks))
    return found
