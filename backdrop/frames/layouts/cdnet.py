"""Layout cdnet: CDnet 2014."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from backdrop.frames.layouts.listing import Sequence, below, image_files, image_folder, stem_number
from backdrop.io.files import IMAGE_SUFFIXES


def list_cdnet(root: Path) -> list[Sequence]:
    """Each folder that holds a folder `input`, with the truth inside the interval that CDnet evaluates."""
    found = []
    for folder in sorted({p.parent for depth in ("", "*/", "*/*/", "*/*/*/") for p in root.glob(f"{depth}input")}):
        sequence = image_folder(folder / "input", below(folder, root), None, mask_rule="cdnet")
        first, last = _cdnet_interval(folder)
        number = {stem_number(p): i for i, p in enumerate(sequence.images)}
        masks: dict[int, Path] = {}
        # the five-label truth, where it is kept apart, knows shadow and unknown pixels that a binarized one lost
        for truth in ("groundtruth", "groundtruth_5labels"):
            for path in image_files(folder / truth, IMAGE_SUFFIXES):
                shown = stem_number(path)
                if shown in number and shown is not None and first <= shown <= last:
                    masks[number[shown]] = path
        found.append(replace(sequence, name=folder.resolve().name, masks=masks))
    return found


def _cdnet_interval(folder: Path) -> tuple[int, int]:
    """First and last frame that CDnet evaluates (temporalROI.txt); masks of other frames are withheld, not empty."""
    file = folder / "temporalROI.txt"
    numbers = re.findall(r"[0-9]+", file.read_text()) if file.is_file() else []
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (0, sys.maxsize)
