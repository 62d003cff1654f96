"""Data layouts: which files are the frames and masks of which sequence.

Layouts differ in their file listing only; everything after the listing is shared. A new layout is a file here, a line
in `LAYOUTS`, and its name in `frames.parameters.LAYOUT_NAMES`; a test holds the two equal.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from backdrop.errors import BackdropError
from backdrop.frames.entries import same_named
from backdrop.frames.layouts.bms import list_bms
from backdrop.frames.layouts.cdnet import list_cdnet
from backdrop.frames.layouts.davis import list_davis
from backdrop.frames.layouts.listing import Layout, Sequence, visible_entries
from backdrop.frames.layouts.plain_splits import PLAIN_SPLITS, list_plain_splits
from backdrop.frames.layouts.ski_ptz import list_ski_ptz
from backdrop.frames.layouts.synthetic import list_synthetic
from backdrop.frames.layouts.videos import list_videos
from backdrop.frames.names import natural_key, safe_name
from backdrop.io.files import ACCEPTED, show

LAYOUTS: dict[str, Layout] = {
    "synthetic": Layout(
        list_synthetic, "videos/{train,val,test}/<sequence>.mp4 and truth/<sequence>.zip holding masks/%06d.png"
    ),
    "videos": Layout(
        list_videos,
        "video files and folders of images, one a sequence (or one video file, or one folder of images); optionally "
        "masks/<sequence>/<stem of the image, or frame number from 0>.png",
    ),
    "davis": Layout(
        list_davis,
        "JPEGImages/480p/<sequence>/*.jpg and Annotations/480p/<sequence>/*.png (or another resolution); "
        "ImageSets/480p/{train,val}.txt, where present, are the splits train and test",
    ),
    "ski_ptz": Layout(
        list_ski_ptz,
        "Videos_Small/trial_<t>_cam<c>/frame_<number>.jpg (or Videos/), Segmentation_masks/ and, optionally, "
        "poses/trial_<t>_cam<c>.csv",
    ),
    "handheld190k": Layout(list_plain_splits, PLAIN_SPLITS),
    "fs_singles": Layout(list_plain_splits, PLAIN_SPLITS),
    "h36m": Layout(list_plain_splits, PLAIN_SPLITS),
    "cdnet": Layout(
        list_cdnet,
        "<category>/<sequence>/input/in%06d.jpg and .../groundtruth/gt%06d.png; optionally .../ROI.bmp, the region of "
        "interest, and .../temporalROI.txt",
    ),
    "bms": Layout(list_bms, "<sequence>/<name>.jpg, with a mask <name>.pgm beside some of them"),
}


def list_sequences(layout: str, root: Path | str) -> list[Sequence]:
    """The sequences under a root, by file listing only.

    Args:
        layout: a key of `LAYOUTS`.
        root: the data set's folder.

    Raises:
        BackdropError: unknown layout, missing root, or nothing of the layout under it.
    """
    root = same_named(Path(root))
    if layout not in LAYOUTS:
        raise BackdropError(f"unknown data.layout {layout!r}; layouts are {', '.join(LAYOUTS)}")
    if not os.path.exists(root):
        raise BackdropError(f"data.root {show(root)} does not exist; set data.root to the folder of the footage")
    found = LAYOUTS[layout].listing(root)
    if not found:
        present = ", ".join(show(p.name) for p in visible_entries(root)[:8]) if root.is_dir() else "a file"
        raise BackdropError(
            f"data.root {show(root)} holds no sequence of layout {layout} (found: {present or 'nothing'}); "
            f"expected {LAYOUTS[layout].expects}. Accepted are {ACCEPTED}"
        )
    return named_sequences(found)


def named_sequences(sequences: list[Sequence]) -> list[Sequence]:
    """The sequences with safe, unique names, in natural order of their source."""

    def digest(sequence: Sequence) -> str:
        return hashlib.sha1(os.fsencode(sequence.source)).hexdigest()[:8]

    safe = [safe_name(s.name) for s in sequences]
    count = Counter(name.lower() for name in safe)
    named = []
    for sequence, name in zip(sequences, safe, strict=True):
        if not name or count[name.lower()] > 1:
            name = f"{name or 'sequence'}-{digest(sequence)}"
        named.append(replace(sequence, name=name, source=show(sequence.source)))
    return sorted(named, key=lambda s: (natural_key(s.source), s.source))
