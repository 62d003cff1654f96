"""Layout davis: DAVIS 2016 and 2017."""

from __future__ import annotations

from pathlib import Path

from backdrop.frames.entries import nfc, same_named
from backdrop.frames.layouts.listing import Sequence, below, image_folder, subfolders


def list_davis(root: Path) -> list[Sequence]:
    """The sequences of the smallest resolution there is, with the splits of ImageSets."""
    resolutions = subfolders(root / "JPEGImages")
    if not resolutions:
        return []
    order = {"480p": 0, "1080p": 1, "Full-Resolution": 2}
    images = min(resolutions, key=lambda p: order.get(p.name, 3))
    annotations = root / "Annotations" / images.name
    splits = _davis_splits(root, images.name)
    return [
        image_folder(f, below(f, root), same_named(annotations / f.name), split=splits.get(nfc(f.name)), fps=24.0)
        for f in subfolders(images)
    ]


def _davis_splits(root: Path, resolution: str) -> dict[str, str]:
    """ImageSets/{480p,2016,2017}/{train,val}.txt, by file or by sequence; papers test on the val set."""
    splits = {}
    for file, split in (("train.txt", "train"), ("val.txt", "test")):
        choices = [root / "ImageSets" / folder / file for folder in (resolution, "480p", "2016", "2017")]
        listing = next((c for c in choices if c.is_file()), None)
        for line in listing.read_text(encoding="utf-8").split("\n") if listing else []:
            if line.strip():
                first = Path(line.split()[0])
                splits[nfc(first.parent.name if first.suffix else first.name)] = split
    return splits
