"""Layout synthetic: the embedded footage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from backdrop.errors import BackdropError
from backdrop.frames.layouts.listing import Sequence, below, image_files, video_file
from backdrop.frames.layouts.plain_splits import SPLITS
from backdrop.io.files import VIDEO_SUFFIXES, show


def list_synthetic(root: Path) -> list[Sequence]:
    """The rendered videos of each split, with the archives of their masks."""
    found = []
    for split in (s for s in SPLITS if (root / "videos" / s).is_dir()):
        for path in image_files(root / "videos" / split, VIDEO_SUFFIXES):
            truth = root / "truth" / f"{path.stem}.zip"
            archive = truth if truth.is_file() else None
            found.append(video_file(path, below(path, root), None, split=split, mask_archive=archive))
    twice = [name for name, n in Counter(s.name for s in found).items() if n > 1]
    if twice:
        raise BackdropError(
            f"{show(root)}: two videos are named {twice[0]}, but truth/{twice[0]}.zip can be of one only"
        )
    return found
