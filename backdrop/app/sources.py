"""Sources: the images and videos that files, folders and patterns name."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from backdrop.errors import BackdropError
from backdrop.frames.names import natural_key
from backdrop.io.files import ACCEPTED, IMAGE_SUFFIXES, VIDEO_SUFFIXES, show


class Source(NamedTuple):
    """An image or a video.

    path: the file. video: whether it is a video.
    name: what its outputs are called. It is the path below the folder that was given, without suffix, with "/" between
    folders. No two sources have the same one.
    """

    path: Path
    name: str
    video: bool


def find_sources(inputs: Sequence[str | Path]) -> list[Source]:
    """All images and videos that the inputs name, in the order of the inputs.

    Files of a folder come in natural order: frame10 after frame9.

    Args:
        inputs: files, folders, or patterns. Folders are searched to any depth. Hidden files and files that are neither
            image nor video are passed over there. A text with *, ? or [...] is a pattern where no such file exists.

    Raises:
        BackdropError: an input does not exist, is neither image nor video by its suffix, or holds none.
    """
    found: list[tuple[Path, Path]] = []  # file, and what its name is relative to
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            matching = [(file, path) for file in _matching_files(path)]
        elif path.exists():
            matching = [(path, path.parent)]
            if _kind(path) is None:
                raise BackdropError(
                    f"{show(path)} is by its suffix neither an image ({' '.join(IMAGE_SUFFIXES)}) nor a video "
                    f"({' '.join(VIDEO_SUFFIXES)})"
                )
        else:
            names = sorted(glob.glob(str(given), recursive=True), key=natural_key)
            matching = [(Path(name), Path(name).parent) for name in names if _kind(Path(name)) is not None]
            if not names:
                raise BackdropError(f"{show(given)} does not exist, and no file matches it")
        if not matching:
            raise BackdropError(f"{show(given)} holds none of {ACCEPTED}")
        found += matching
    return _unique_names(dict.fromkeys(found))


def _matching_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*"), key=lambda path: natural_key(path.relative_to(folder).as_posix())):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and _kind(file) is not None and file.is_file():
            yield file


def _kind(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


def _unique_names(found: Iterable[tuple[Path, Path]]) -> list[Source]:
    """Sources with unique names. Where two would have the same one, the suffix stays, and then a number is added."""
    pairs = [(file, file.relative_to(base)) for file, base in found]
    plain = Counter(relative.with_suffix("").as_posix() for _, relative in pairs)
    taken: Counter[str] = Counter()
    sources = []
    for file, relative in pairs:
        name = relative.with_suffix("").as_posix()
        if plain[name] > 1 or not Path(name).name.strip("."):  # of "...mp4" the folder above would be left
            name = relative.as_posix()
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name}-{taken[name]}"
        sources.append(Source(file, name, _kind(file) == "video"))
    return sources
