"""Layout videos: video files and folders of images, one for each sequence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from backdrop.errors import BackdropError
from backdrop.frames.entries import Entry, is_labels, look_into, passed_over
from backdrop.frames.layouts.listing import (
    Sequence,
    below,
    image_files,
    image_folder,
    mask_folder,
    unused_masks,
    video_file,
    warn,
    with_note,
)
from backdrop.io.files import ACCEPTED, IMAGE_SUFFIXES, show


def list_videos(
    root: Path, split: str | None = None, masks: Path | None = None, base: Path | None = None
) -> list[Sequence]:
    """Each video file and each folder of images under `root`; or `root` itself, where it is one of the two.

    Images beside a video or a folder of images are no sequence. What is passed over is a warning.

    Args:
        root: the folder, or one video file.
        split: of all sequences.
        masks: folder of the masks; by default `root`/masks.
        base: what sources are named relative to; by default `root`.
    """
    base = base or root
    if root.is_file():
        return [video_file(root, root.name, mask_folder(root.parent / "masks", root), split=split)]
    own = masks is None
    masks = masks or masks_of(root)
    entries = [entry for entry in look_into(root) if entry.path != masks and not is_labels(entry)]
    if _one_sequence(entries):
        sequence = image_folder(root, below(root, base), mask_folder(masks, root), split=split)
        found, passed, used = [with_note(sequence, _beside(entries))], [], [mask_folder(masks, root)]
    else:
        chosen = [entry for entry in entries if entry.kind in ("video", "folder")]
        found = [_entry_sequence(entry, below(entry.path, base), masks, split) for entry in chosen]
        passed, used = _passed(entries), [mask_folder(masks, entry.path) for entry in chosen]
    if own:
        passed += unused_masks(masks, used)
    warn_of(root, passed)
    return found


def masks_of(root: Path) -> Path:
    """The folder of a data set's masks, whether it is there or not; its name may have capital letters."""
    folders = [entry.path for entry in look_into(root) if entry.kind == "folder"]
    return next((path for path in folders if path.name.lower() == "masks"), root / "masks")


def warn_of(root: Path, passed: list[tuple[str, str]]) -> None:
    """Warn of what was passed over under a root, if anything: name and reason of each."""
    if passed:
        warn(f"ignored in {show(root)}: {passed_over(passed)}. Accepted are {ACCEPTED}")


def _one_sequence(entries: Iterable[Entry]) -> bool:
    """Whether images lie there, and neither a video nor a folder of images beside them."""
    kinds = {entry.kind for entry in entries if not entry.why}
    return "image" in kinds and "video" not in kinds and not any(_holds_images(entry) for entry in entries)


def _holds_images(entry: Entry) -> bool:
    try:
        return entry.kind == "folder" and bool(image_files(entry.path, IMAGE_SUFFIXES))
    except BackdropError:
        return False


def _entry_sequence(entry: Entry, source: str, masks: Path, split: str | None) -> Sequence:
    truth = mask_folder(masks, entry.path)
    if entry.kind == "folder":
        sequence = image_folder(entry.path, source, truth, split=split)
        return sequence if sequence.fault else with_note(sequence, _beside(look_into(entry.path)))
    return replace(video_file(entry.path, source, truth, split=split), fault=entry.why)


def _passed(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """What is no sequence where there are some."""
    loose = "photos beside videos or folders of images"
    pairs = [(e.path.name, e.why or (loose if e.kind == "image" else "")) for e in entries if e.kind in ("image", "")]
    return [(name, why) for name, why in pairs if why]


def _beside(entries: Iterable[Entry]) -> str:
    """A note of what lies in a folder of images and is none."""
    words = {"video": "videos", "folder": "folders"}
    pairs = [(e.path.name, e.why or words.get(e.kind, "")) for e in entries if e.kind != "image"]
    told = [(name, why) for name, why in pairs if why]
    return f"beside its images: {passed_over(told)}" if told else ""
