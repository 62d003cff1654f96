"""Which stored frame a label speaks of: names of images in other tools -> sequence and frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from backdrop.io.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.index import read_index
from backdrop.student.labels.label import Label

JOINT = "--"
"""Between sequence and frame in the name of an image that lies in no folder (`backdrop review` writes these)."""


class StoredFrame(NamedTuple):
    """A stored frame. t: its position in the archive."""

    sequence: str
    t: int


class _Known(NamedTuple):
    split: str
    sizes: set[tuple[int, int]]
    video: bool
    frames: dict[str, int]
    numbers: dict[int, int]


class Footage:
    """The sequences of a folder of frames, by all the names that a tool may call them.

    Args:
        frames_dir: data/frames.
        archives: the sequences that the student learns from.
    """

    def __init__(self, frames_dir: Path, archives: Sequence[FrameArchive]) -> None:
        self._known: dict[str, _Known] = {}
        self._names: dict[str, list[str]] = {}  # on a budget, several sequences are of one video
        trained = {archive.path.stem: archive for archive in archives}
        for row in read_index(frames_dir, usable=True).itertuples():
            name, source = str(row.sequence), PurePosixPath(str(row.source))
            video = source.suffix.lower() in VIDEO_SUFFIXES
            stored = trained[name].names if name in trained else []
            frames = {frame: t for t, frame in enumerate(stored)}
            numbers = {int(frame): t for frame, t in frames.items() if frame.isdecimal()}
            sizes = {(int(row.source_width), int(row.source_height)), (int(row.width), int(row.height))}
            self._known[name] = _Known(str(row.split), sizes, video, frames, numbers)
            for called in (str(source), str(source.with_suffix("")) if video else str(source), name):
                self._names.setdefault(called, []).append(name)

    def find(self, label: Label) -> StoredFrame | str:
        """The frame; else why there is none, in a few words that hold for others of the kind."""
        sequences, frame = self._sequences(label)
        found = [self._stored(label, name, frame) for name in sequences]
        if not found:
            return "no frame of these videos (is it of another data set?)"
        return next((one for one in found if isinstance(one, StoredFrame)), found[0])

    def _stored(self, label: Label, sequence: str, frame: str) -> StoredFrame | str:
        known = self._known[sequence]
        if not known.frames:
            return f"of a video that is not trained on (split {known.split})"
        if label.number is not None and not known.video:
            return "a frame's number in a folder of images: export names (CVAT for images)"
        number = label.number if label.number is not None else _number(frame)
        t = known.frames.get(frame) if label.number is None else None
        t = known.numbers.get(number) if t is None and number is not None else t
        if t is None:
            return "no such frame is among the training frames (see data.budget, data.every, data.limit)"
        return StoredFrame(sequence, t)

    def sizes(self, sequence: str) -> set[tuple[int, int]]:
        """(width, height) of the frames in the source, and as they are stored."""
        return self._known[sequence].sizes

    def _sequences(self, label: Label) -> tuple[list[str], str]:
        """The sequences that an image may belong to, and what of its name is the frame's."""
        path = label.image.replace("\\", "/").partition("?d=")[2] or label.image.replace("\\", "/")
        parts = [part for part in unquote(path).split("/") if part]
        if not parts:
            return [], ""
        if label.number is not None:
            return self._called(parts), ""
        name = parts[-1]
        suffix = PurePosixPath(name).suffix
        stem = name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name
        found = self._called(parts[:-1])
        if not found and JOINT in stem:
            flat, _, rest = stem.rpartition(JOINT)
            found, stem = self._called([flat]) or self._called([re.sub(r"^[0-9a-f]{8}-", "", flat)]), rest
        if not found and len(parts) == 1 and len(self._known) == 1:
            found = list(self._known)
        return found, stem

    def _called(self, parts: list[str]) -> list[str]:
        """The sequences whose name the last of these folders make up."""
        if parts and PurePosixPath(parts[-1]).suffix.lower() in VIDEO_SUFFIXES and "/".join(parts) not in self._names:
            bare = [*parts[:-1], str(PurePosixPath(parts[-1]).with_suffix(""))]
            return self._called(bare)
        endings = ("/".join(parts[k:]) for k in range(len(parts)))
        return next((self._names[ending] for ending in endings if ending in self._names), [])


def _number(frame: str) -> int | None:
    """000012, frame_000012 -> 12."""
    found = re.fullmatch(r"(?:frame[_-]?)?([0-9]{1,9})", frame, re.IGNORECASE)
    return int(found[1]) if found else None
