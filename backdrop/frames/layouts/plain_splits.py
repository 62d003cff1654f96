"""Layouts with a folder for each split (handheld190k, fs_singles, h36m)."""

from __future__ import annotations

from pathlib import Path

from backdrop.frames.entries import look_into
from backdrop.frames.layouts.listing import Sequence, mask_folder, unused_masks, with_poses
from backdrop.frames.layouts.videos import list_videos, masks_of, warn_of

SPLITS = ("train", "val", "test")

PLAIN_SPLITS = (
    "{train,val,test}/<video or folder of images>, and optionally masks/<sequence>/<stem of the frame>.png "
    "(or masks/{train,val,test}/<sequence>/...) and poses/<sequence>.csv (or poses/{train,val,test}/<sequence>.csv)"
)


def list_plain_splits(root: Path) -> list[Sequence]:
    """The sequences of train, val and test, each listed as layout videos lists them."""
    splits = [s for s in SPLITS if (root / s).is_dir()]
    if not splits:
        return []
    masks = masks_of(root)
    truth = {s: masks / s if (masks / s).is_dir() else masks for s in splits}
    used = [mask_folder(truth[s], entry.path) for s in splits for entry in look_into(root / s)]
    poses = root / "poses"
    beside = [entry for entry in look_into(root) if entry.path not in (masks, poses, *(root / s for s in splits))]
    passed = [(entry.path.name, entry.why or "beside the splits") for entry in beside if entry.kind or entry.why]
    for folder in sorted({masks, *truth.values()}):
        passed += unused_masks(folder, [*used, *truth.values()])
    warn_of(root, passed)
    found = [(s, sequence) for s in splits for sequence in list_videos(root / s, s, truth[s], root)]
    return [with_poses(sequence, poses / s, poses) for s, sequence in found]
