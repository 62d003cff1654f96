"""Layout ski_ptz: the Ski-PTZ data set."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from backdrop.frames.layouts.listing import Sequence, below, image_folder, stem_number, subfolders, with_poses
from backdrop.io.files import IMAGE_SUFFIXES

# Ski-PTZ: trials of the two skiers, in the order four / one / one for training, validation and test.
_SKI_TRIALS = {"train": (103, 124, 202, 221, 115, 110, 214, 207), "val": (302, 309), "test": (412, 405)}


def list_ski_ptz(root: Path) -> list[Sequence]:
    """The trials whose split is known, with the masks and poses of some frames."""
    folders = [root / name for name in ("Videos_Small", "Videos_small", "Videos") if (root / name).is_dir()]
    if not folders:
        return []
    split_of = {trial: split for split, trials in _SKI_TRIALS.items() for trial in trials}
    masks = _ski_masks(root / "Segmentation_masks")
    found = []
    for folder in subfolders(folders[0]):
        match = re.fullmatch(r"trial_([0-9]+)_cam_?([0-9]+)", folder.name)
        if match is None or int(match[1]) not in split_of:
            continue
        sequence = image_folder(
            folder, below(folder, root), None, split=split_of[int(match[1])], mask_rule="over200", mask_scaled=True
        )
        stored = masks.get((int(match[1]), int(match[2])), {})
        number = {stem_number(p): i for i, p in enumerate(sequence.images)}
        sequence = replace(sequence, masks={number[f]: p for f, p in stored.items() if f in number})
        found.append(with_poses(sequence, root / "poses"))
    return found


def _ski_masks(folder: Path) -> dict[tuple[int, int], dict[int, Path]]:
    """(trial, camera) -> frame -> mask, read from names like trial_302_cam1_frame_000021.jpg or folders of them."""
    masks: dict[tuple[int, int], dict[int, Path]] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        match = re.search(r"trial_([0-9]+)_cam_?([0-9]+)[^0-9]+([0-9]+)$", stem)
        if match and path.suffix.lower() in IMAGE_SUFFIXES:
            masks.setdefault((int(match[1]), int(match[2])), {})[int(match[3])] = path
    return masks
