"""What a person points at: images, folders of them, patterns, videos; as a list of things to segment."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backdrop.errors import BackdropError
from backdrop.frames.names import natural_key
from backdrop.io.files import ACCEPTED, IMAGE_SUFFIXES, VIDEO_SUFFIXES, show
from backdrop.io.images import RGB, decode_image
from backdrop.video.decode import Tally, decode_video


class Source(NamedTuple):
    """An image or a video.

    path: the file. name: what its outputs are called, unique among all sources: its path below the folder that was
    given, without suffix, "/" between folders. video: whether it is one.
    """

    path: Path
    name: str
    video: bool


class Frame(NamedTuple):
    """A frame of a source: its number in the file (0 for an image), seconds since the first, (H, W, 3) uint8 RGB."""

    number: int
    time: float
    image: RGB


def find_sources(inputs: Sequence[str | Path]) -> list[Source]:
    """All images and videos that the inputs name, in their order, those of a folder by name with numbers as numbers.

    Args:
        inputs: files, folders (searched to any depth; hidden files, and files that are neither, are passed over), or
            patterns with *, ? or [...] where no such file exists.

    Raises:
        BackdropError: an input does not exist, is neither image nor video by its suffix, or holds none.
    """
    found: list[tuple[Path, Path]] = []  # file, and what its name is relative to
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = [(file, path) for file in _matching_files(path)]
        elif path.exists():
            files = [(path, path.parent)]
            if _kind(path) is None:
                raise BackdropError(
                    f"{show(path)} is by its suffix neither an image ({' '.join(IMAGE_SUFFIXES)}) nor a video "
                    f"({' '.join(VIDEO_SUFFIXES)})"
                )
        else:
            matches = sorted(glob.glob(str(given), recursive=True), key=natural_key)
            files = [(Path(match), Path(match).parent) for match in matches if _kind(Path(match)) is not None]
            if not matches:
                raise BackdropError(f"{show(given)} does not exist, and no file matches it")
        if not files:
            raise BackdropError(f"{show(given)} holds none of {ACCEPTED}")
        found += files
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
    """Sources with unique names: the suffix stays where two differ in nothing else, then a number."""
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


def frames_of(source: Source, every: int = 1, tally: Tally | None = None) -> Iterator[Frame]:
    """The frames of a source one at a time; of a video frames 0, every, 2 every, ...

    Raises:
        BackdropError: it cannot be read; the message names it.
    """
    if not source.video:
        yield Frame(0, 0.0, decode_image(source.path))
        return
    for index, time, image in decode_video(source.path, every, tally=tally):
        yield Frame(index, time, np.ascontiguousarray(image))
