"""Layouts with a folder for each split (handheld190k, fs_singles, h36m)."""

from __future__ import annotations

from pathlib import Path

from backdrop.frames.layouts.listing import Sequence
from backdrop.frames.layouts.videos import list_videos

SPLITS = ("train", "val", "test")

PLAIN_SPLITS = (
    "{train,val,test}/<video or folder of images>, and optionally masks/<sequence>/<stem of the frame>.png "
    "(or masks/{train,val,test}/<sequence>/...)"
)


def list_plain_splits(root: Path) -> list[Sequence]:
    """The sequences of train, val and test, each listed as layout videos lists them."""
    masks = root / "masks"
    splits = [s for s in SPLITS if (root / s).is_dir()]
    return [q for s in splits for q in list_videos(root / s, s, masks / s if (masks / s).is_dir() else masks, root)]
