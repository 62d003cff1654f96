"""Layout cdnet: CDnet 2014."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from backdrop.errors import BackdropError
from backdrop.frames.layouts.listing import Sequence, below, image_files, image_folder, stem_number, with_note
from backdrop.io.files import IMAGE_SUFFIXES, show


def list_cdnet(root: Path) -> list[Sequence]:
    """Each folder that holds a folder `input`, with the truth inside the interval that CDnet evaluates.

    ROI.bmp beside `input` is the sequence's region of interest. Where the interval cannot be read no truth is taken:
    what is withheld looks like empty masks.
    """
    found = []
    for folder in sorted({p.parent for depth in ("", "*/", "*/*/", "*/*/*/") for p in root.glob(f"{depth}input")}):
        sequence = image_folder(folder / "input", below(folder, root), None, mask_rule="cdnet")
        sequence = replace(sequence, name=folder.resolve().name)
        try:
            found.append(replace(sequence, masks=_cdnet_masks(folder, sequence), roi=_cdnet_region(folder)))
        except BackdropError as fault:
            found.append(with_note(replace(sequence, roi=_cdnet_region(folder)), f"no truth is read: {fault}"))
    return found


def _cdnet_masks(folder: Path, sequence: Sequence) -> dict[int, Path]:
    """Frame number -> mask; see `_cdnet_interval`."""
    first, last = _cdnet_interval(folder)
    number = {stem_number(p): i for i, p in enumerate(sequence.images)}
    masks: dict[int, Path] = {}
    # the five-label truth, where it is kept apart, knows shadow and unknown pixels that a binarized one lost
    for truth in ("groundtruth", "groundtruth_5labels"):
        for path in image_files(folder / truth, IMAGE_SUFFIXES):
            shown = stem_number(path)
            if shown in number and shown is not None and first <= shown <= last:
                masks[number[shown]] = path
    return masks


def _cdnet_region(folder: Path) -> Path | None:
    """The region of interest that CDnet ships; None: all of each frame."""
    path = folder / "ROI.bmp"
    return path if os.path.lexists(path) else None


def _cdnet_interval(folder: Path) -> tuple[int, int]:
    """First and last frame that CDnet evaluates (temporalROI.txt); masks of other frames are withheld, not empty.

    Raises:
        BackdropError: the file cannot be read, or holds no two numbers.
    """
    file = folder / "temporalROI.txt"
    if not os.path.lexists(file):
        return 0, sys.maxsize
    try:
        numbers = re.findall(r"[0-9]+", file.read_bytes().decode("ascii", "replace"))
    except OSError as fault:
        raise BackdropError(f"{show(file)}: {fault.strerror}") from fault
    if len(numbers) != 2:
        raise BackdropError(f"{show(file)} holds no two numbers, the first and the last frame that are evaluated")
    return int(numbers[0]), int(numbers[1])
