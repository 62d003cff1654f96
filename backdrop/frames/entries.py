"""Entries of folders: which are footage, and why the others are passed over.

Not told, because everybody has them: text and tables (`PLAIN_FILES`), hidden files that are no footage, hidden folders,
and the files ._* in which macOS keeps attributes.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from backdrop.errors import BackdropError
from backdrop.frames.names import natural_key
from backdrop.io.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, show

PLAIN_FILES = ("", ".txt", ".md", ".json", ".csv", ".yaml", ".yml", ".xml", ".srt", ".dvc", ".db", ".ini")

OTHERS = (
    *("@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot"),
    *("__macosx", "$recycle.bin", "system volume information", "lost+found"),
)
"""Folders, in small letters, that other programs put beside footage: thumbnails, what was deleted, older states."""

TRUTH_BESIDE = {
    "annotations": ("jpegimages",),
    "groundtruth": ("input",),
    "groundtruth_5labels": ("input",),
    "segmentation_masks": ("videos", "videos_small"),
}
"""A folder of ground truth, in small letters -> the folders of frames beside which it is that."""

NAMED = 3
"""Names that a message gives of each kind."""


class Entry(NamedTuple):
    """An entry of a folder.

    kind: "image", "video", "folder"; "" for all else.
    why: it is passed over, in a few words; "" for what is used, or need not be told.
    """

    path: Path
    kind: str
    why: str = ""


def kind_by_name(path: Path) -> str:
    """ "image" or "video" by the suffix, else ""."""
    suffix = path.suffix.lower()
    return "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else ""


def look_at(path: Path) -> Entry:
    """An entry by its name and its type; no file is opened. An image or video that is not there has kind and why."""
    kind = kind_by_name(path)
    if path.name.startswith("."):
        told = kind and not path.name.startswith("._")
        return Entry(path, "", "hidden" if told else "")
    if os.path.isdir(path):
        return Entry(path, "", "of another program") if path.name.lower() in OTHERS else Entry(path, "folder")
    plain = kind or path.suffix.lower() in PLAIN_FILES
    return Entry(path, kind, trouble(path) or ("" if plain else "neither image nor video"))


def trouble(path: Path) -> str:
    """Why a path is no file that can be opened, in a few words; "" for a file."""
    try:
        mode = path.stat().st_mode
    except OSError as fault:
        return "a link that leads nowhere" if os.path.islink(path) else (fault.strerror or "unreadable")
    return "" if stat.S_ISREG(mode) else "no regular file"


def look_into(folder: Path) -> list[Entry]:
    """All entries of a folder in natural order.

    Raises:
        BackdropError: it cannot be listed.
    """
    try:
        paths = list(folder.iterdir())
    except OSError as fault:
        raise BackdropError(f"cannot list {show(folder)}: {fault.strerror}") from fault
    return [look_at(path) for path in sorted(paths, key=lambda path: (natural_key(path.name), path.name))]


def is_labels(entry: Entry) -> bool:
    """Whether a folder is `labels` by its name, and holds no image itself, as a sequence would."""
    if entry.kind != "folder" or entry.path.name.lower() != "labels":
        return False
    try:
        return all(one.kind != "image" for one in look_into(entry.path))
    except BackdropError:
        return True


def is_truth(entry: Entry, beside: Iterable[Entry]) -> bool:
    """Whether a folder says what is in the footage beside it: `masks`, `labels`, a data set's own (`TRUTH_BESIDE`)."""
    if entry.kind != "folder":
        return False
    others = [one for one in beside if one.kind and one.path != entry.path]
    name = entry.path.name.lower()
    if name == "masks" or is_labels(entry):
        return bool(others)
    return any(one.kind == "folder" and one.path.name.lower() in TRUTH_BESIDE.get(name, ()) for one in others)


CDNET_REGION = "CDnet's region of interest"


def is_region(path: Path) -> bool:
    """Whether a file is the `CDNET_REGION` of the frames in `input` beside it."""
    return path.name in ("ROI.bmp", "ROI.jpg") and path.with_name("input").is_dir()


def passed_over(entries: Iterable[tuple[str, str]]) -> str:
    """What was passed over, as one line: for each reason how many, and the first names.

    Args:
        entries: name and reason of each.
    """
    groups: dict[str, list[str]] = {}
    for name, why in entries:
        groups.setdefault(why, []).append(show(name))
    return "; ".join(
        f"{why}: {len(names)} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for why, names in groups.items()
    )


def nfc(text: str) -> str:
    """A name in the one Unicode form in which names are compared: macOS writes é as e and an accent."""
    return unicodedata.normalize("NFC", text)


def same_named(path: Path) -> Path:
    """The file or folder of this name, in whichever Unicode form it is written; the path as it is if there is none."""
    if os.path.lexists(path) or str(path).isascii():
        return path
    parent = same_named(path.parent) if path.parent != path else path
    try:
        found = [one for one in parent.iterdir() if nfc(one.name) == nfc(path.name)]
    except OSError:
        found = []
    return found[0] if found else path
