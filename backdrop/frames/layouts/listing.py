"""What a data layout lists: sequences, as their files lie on disk."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backdrop.errors import BackdropError
from backdrop.frames.entries import look_into, nfc, passed_over, same_named
from backdrop.frames.names import safe_name
from backdrop.io.files import ACCEPTED, IMAGE_SUFFIXES, show
from backdrop.io.index import INDEX_COLUMNS


@dataclass(frozen=True)
class Sequence:
    """One sequence as its files lie on disk; nothing has been opened yet.

    Attributes:
        name: safe and unique, see `backdrop.frames.names`.
        source: its path below the root, for tables and messages.
        split: train, val, test, all, or None where the layout has no splits of its own.
        video: the video file, or None.
        images: the frames' files in order, empty for a video.
        masks: frame number in the source -> mask file.
        mask_archive: a zip with masks/%06d.png by frame number instead.
        mask_rule: how mask values are read, see `decode_mask`.
        poses: a table of 2D poses (see `backdrop.frames.poses`), the truth of boxes; None: there is none.
        mask_scaled: masks may have another size than the frames, in the same proportions.
        roi: an image of the region of interest, the data set's own or `data.roi`; None: the whole frame.
        fps: of an image folder, which states none itself.
        fault: why it cannot be used, found while listing.
        note: what is worth a warning, found while listing.
    """

    name: str
    source: str
    split: str | None = None
    video: Path | None = None
    images: tuple[Path, ...] = ()
    masks: Mapping[int, Path] = field(default_factory=dict)
    mask_archive: Path | None = None
    mask_rule: str = "any"
    mask_scaled: bool = False
    poses: Path | None = None
    roi: Path | None = None
    fps: float = 25.0
    fault: str = ""
    note: str = ""


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk: its listing, and what it expects in words."""

    listing: Callable[[Path], list[Sequence]]
    expects: str


def visible_entries(folder: Path) -> list[Path]:
    """Visible entries of a folder in natural order; hidden files are other programs' (.DS_Store, ._x.jpg).

    Raises:
        BackdropError: it cannot be listed.
    """
    return [entry.path for entry in look_into(folder) if not entry.path.name.startswith(".")]


def image_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files of a folder with one of the suffixes (any case), in natural order; [] if there is no such folder."""
    if not os.path.isdir(folder):
        return []
    return [p for p in visible_entries(folder) if p.suffix.lower() in suffixes and os.path.isfile(p)]


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, in natural order; [] if there is no such folder."""
    return [entry.path for entry in look_into(folder) if entry.kind == "folder"] if os.path.isdir(folder) else []


def stem_number(path: Path) -> int | None:
    """The digits that end a file's stem, as a number: frame_000012.png -> 12."""
    digits = re.search(r"([0-9]+)$", path.stem)
    return int(digits[1]) if digits else None


def image_folder(
    folder: Path, source: str, masks: Path | None, suffixes: Iterable[str] = IMAGE_SUFFIXES, **rest: Any
) -> Sequence:
    """A folder of images, with the masks of the same stems from another folder. A note names images that are gone."""
    sequence = Sequence(name=folder.name, source=source, **rest)
    try:
        entries = look_into(folder)
        images = tuple(image_files(folder, suffixes))
    except BackdropError as fault:
        return replace(sequence, fault=str(fault))
    missing = [(e.path.name, e.why) for e in entries if e.kind == "image" and e.why]
    note = f"left out: {passed_over(missing)}" if missing else ""
    sequence = replace(sequence, images=images, note=note)
    if not images:
        what = note or ("is empty" if not any(not e.path.name.startswith(".") for e in entries) else "holds no image")
        return replace(sequence, fault=f"the folder {what}; put videos beside it or frames into it: {ACCEPTED}")
    twice = [stem for stem, n in Counter(nfc(p.stem) for p in images).items() if n > 1]
    if twice:
        return replace(
            sequence, fault=f"two images are named {show(twice[0])}.*; keep one (masks belong in masks/<sequence>/)"
        )
    number = {nfc(p.stem): i for i, p in enumerate(images)}
    return with_masks(sequence, masks, lambda path: number.get(nfc(path.stem)))


def video_file(path: Path, source: str, masks: Path | None, **rest: Any) -> Sequence:
    """A video, with masks numbered by frame (from 0) from a folder."""
    return with_masks(Sequence(name=path.stem, source=source, video=path, **rest), masks, stem_number)


def with_masks(sequence: Sequence, folder: Path | None, frame_of: Callable[[Path], int | None]) -> Sequence:
    """The sequence with the masks of a folder; masks of no frame are a note, a folder without a match a fault."""
    if folder is None or not os.path.isdir(folder):
        return sequence
    try:
        files = image_files(folder, IMAGE_SUFFIXES)
    except BackdropError as fault:
        return replace(sequence, fault=str(fault))
    masks: dict[int, Path] = {}
    strays = []
    for path in files:
        frame = frame_of(path)
        if frame is None:
            strays.append(path)
        elif frame in masks:
            return replace(sequence, fault=f"{show(masks[frame])} and {show(path)} are masks of the same frame")
        else:
            masks[frame] = path
    if files and not masks:
        example = f"like {show(sequence.images[0].stem)}" if sequence.images else "by frame number from 0, like 000000"
        return replace(sequence, fault=f"no mask in {show(folder)} is named after a frame; name them {example}.png")
    stray = f"masks without a frame: {len(strays)} (first: {show(strays[0])})" if strays else ""
    return with_note(replace(sequence, masks=masks), stray)


def with_poses(sequence: Sequence, *folders: Path) -> Sequence:
    """The sequence with its table of poses, `<its name>.csv` in the first of the folders that holds one."""
    tables = (same_named(folder / f"{sequence.name}.csv") for folder in folders)
    return replace(sequence, poses=next((table for table in tables if table.is_file()), None))


def with_note(sequence: Sequence, note: str) -> Sequence:
    """The sequence with one more note; "" adds none."""
    return replace(sequence, note="; ".join(text for text in (sequence.note, note) if text))


def below(path: Path, root: Path) -> str:
    """The path below a root, for tables and messages; of the root itself its name."""
    return path.relative_to(root).as_posix() if path != root else path.resolve().name


def mask_folder(masks: Path, path: Path) -> Path:
    """The masks of a source: masks/<its full name> if there is one, else masks/<stem>, else masks/<safe name>."""
    choices = [masks / path.name, masks / (path.name if os.path.isdir(path) else path.stem)]
    present = (c for c in map(same_named, choices) if os.path.isdir(c))
    return next(present, masks / safe_name(choices[1].name))


def unused_masks(masks: Path, used: Collection[Path]) -> list[tuple[str, str]]:
    """What lies in the folder of the masks and belongs to no sequence, for `passed_over`."""
    entries = look_into(masks) if os.path.isdir(masks) else []
    return [(f"{masks.name}/{e.path.name}", "without a sequence") for e in entries if e.kind and e.path not in used]


def skipped_row(sequence: Sequence, fault: BackdropError) -> dict[str, Any]:
    """The row of the index of a sequence that cannot be used."""
    row: dict[str, Any] = dict.fromkeys(INDEX_COLUMNS)
    row.update(sequence=sequence.name, split=sequence.split or "all", source=sequence.source)
    return {**row, "status": "skipped", "reason": " ".join(str(fault).split()), "frames": 0, "masks": 0}


def warn(text: str) -> None:
    """Print a warning on stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {text}", file=sys.stderr)
