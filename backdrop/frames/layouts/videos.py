"""Layout videos: video files and folders of images, one for each sequence."""

from __future__ import annotations

from pathlib import Path

from backdrop.frames.layouts.listing import (
    PLAIN_FILES,
    Sequence,
    below,
    image_files,
    image_folder,
    mask_folder,
    video_file,
    visible_entries,
    warn,
)
from backdrop.io.files import ACCEPTED, IMAGE_SUFFIXES, VIDEO_SUFFIXES, show


def list_videos(
    root: Path, split: str | None = None, masks: Path | None = None, base: Path | None = None
) -> list[Sequence]:
    """Each video file and each folder of images under `root`; or `root` itself, where it is one of the two.

    Args:
        root: the folder, or one video file.
        split: of all sequences.
        masks: folder of the masks; by default `root`/masks.
        base: what sources are named relative to; by default `root`.
    """
    masks, base = masks or root / "masks", base or root
    if root.is_file():
        return [video_file(root, root.name, mask_folder(root.parent / "masks", root), split=split)]
    if image_files(root, IMAGE_SUFFIXES):
        return [image_folder(root, below(root, base), mask_folder(masks, root), split=split)]
    found, ignored = [], []
    for path in visible_entries(root):
        if path == masks:
            continue
        source, truth = below(path, base), mask_folder(masks, path)
        if path.is_dir():
            found.append(image_folder(path, source, truth, split=split))
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            found.append(video_file(path, source, truth, split=split))
        elif path.suffix.lower() not in PLAIN_FILES:
            ignored.append(path)
    if ignored:
        warn(f"ignored, not known as video: {', '.join(show(p) for p in ignored)}; accepted are {ACCEPTED}")
    return found
