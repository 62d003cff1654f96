"""Sources: the images and videos that files, folders and patterns name, and what their outputs are called."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from backdrop.errors import BackdropError
from backdrop.frames.entries import (
    CDNET_REGION,
    PLAIN_FILES,
    Entry,
    is_region,
    is_truth,
    kind_by_name,
    look_at,
    look_into,
    passed_over,
    same_named,
    trouble,
)
from backdrop.frames.layouts.listing import warn
from backdrop.frames.names import natural_key
from backdrop.io.files import ACCEPTED, IMAGE_SUFFIXES, VIDEO_SUFFIXES, one_line, show

LOCK = ".lock"
"""In an output folder; held by the process that writes there (see `predict.alone_in`)."""

RESULT_FOLDERS = ("records", "masks", "overlay", "npz", "coco", "davis", "yolo", "labelstudio", "video",
                  "csv", "cutout", "alpha", "background", "cvat", "labelstudio-video")  # fmt: skip
"""Folders that an output folder may hold; a test holds them equal to what is written."""

OF_IMAGES, OF_VIDEOS = (".jsonl", ".png", ".jpg", ".npz", ".txt"), (".jsonl", ".mp4", ".webm", ".mov", ".xml")
"""What is put behind the name of an image, of a video. The frames of a video lie in folders with its name."""

LOOP = "links to folders that are read already"
"""Why such a link is passed over."""

RESERVED = ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)))
"""Names of devices, which no file has on Windows, whatever its suffix."""


class Source(NamedTuple):
    """An image or a video.

    path: the file. video: whether it is a video.
    name: what its outputs are called. No two sources have the same one, see `unique_names`.
    file: what other tools call it: its path below the folder that all inputs have in common, with "/" between folders.
        "": the name and the suffix.
    fault: why it cannot be read, found while searching.
    """

    path: Path
    name: str
    video: bool
    file: str = ""
    fault: str = ""


@contextmanager
def costing_itself(source: Source) -> Iterator[None]:
    """In the block, a fault of the system becomes one of the source, so that the others go on.

    Raises:
        BackdropError: names the source and what the system says.
    """
    try:
        yield
    except OSError as fault:
        if fault.errno == errno.ENAMETOOLONG:
            why = "its name is too long for the files that are made of it; rename it"
        else:
            file = show(os.fsdecode(fault.filename)) if isinstance(fault.filename, str | bytes) else ""
            why = f"{file}: " * (file not in ("", show(source.path))) + (fault.strerror or one_line(fault))
        raise BackdropError(f"{show(source.path)}: {why}") from fault


def find_sources(
    inputs: Sequence[str | Path], out: Path | None = None, tell: Callable[[str], None] = warn
) -> list[Source]:
    """All images and videos that the inputs name, in the order of the inputs.

    Files of a folder come in natural order: frame10 after frame9. Names are relative to the folder that all inputs have
    in common; of a single folder that is itself. An input that is no footage, and a broken link or a locked folder
    below one, is a source with a fault.

    Args:
        inputs: files, folders, or patterns. Folders are searched to any depth, through links, too. A text with *, ? or
            [...] is a pattern where no such file exists; folders that match it are searched.
        out: where the results will be. They are no inputs, nor are results of earlier commands, ground truth, hidden
            files, and folders of other programs.
        tell: is given one line about what was passed over, if anything.

    Raises:
        BackdropError: an input does not exist, or no source is without a fault.
    """
    search = _Search(out)
    beside = Counter(_absolute(Path(given)).parent for given in inputs)
    for given in inputs:
        search.take(given, beside[_absolute(Path(given)).parent] > 1)
    if search.passed:
        tell("passed over: " + passed_over((path.name, why) for path, why in search.passed.items()))
    found = search.sources()
    if not found:
        raise BackdropError(f"none of the inputs is an image or a video; accepted are {ACCEPTED}")
    if all(source.fault for source in found):
        raise BackdropError(found[0].fault + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""))
    return found


class _Search:
    """What was found so far.

    found: absolute path -> the path as given, and its fault.
    bases: the folders to which names may be relative, one for each input.
    passed: what is no input, and why.
    """

    def __init__(self, out: Path | None) -> None:
        self.out = None if out is None else _real(out)
        self.found: dict[Path, tuple[Path, str]] = {}
        self.bases: list[Path] = []
        self.passed: dict[Path, str] = {}
        self._read: set[Path] = set()
        self._listed: dict[Path, list[Entry]] = {}

    def take(self, given: str | Path, listed: bool) -> None:
        """Add what one input names.

        Args:
            listed: it lies beside another input. A shell that writes * out lists all that lies there, meant or not.
        """
        path = same_named(Path(given))
        if os.path.isdir(path):
            self.bases.append(_absolute(path))
            why = self._judged(path, False) if listed else None
            if why is None:
                self._take_folder(path, listed)
            else:
                self._pass(path, why)
        elif os.path.lexists(path):
            self.bases.append(_absolute(path).parent)
            if listed and (is_region(path) or (not kind_by_name(path) and path.suffix.lower() in PLAIN_FILES)):
                self._pass(path, CDNET_REGION if is_region(path) else "neither image nor video")
            else:
                self._add(path, self._fault(path))
        elif str(given).startswith("~"):
            self.take(path.expanduser(), listed)
        else:
            self._take_matching(str(given))

    def sources(self) -> list[Source]:
        """All that was found, with names."""
        base = _common(self.bases)
        files = {path: _below(path, base) for path, (_, fault) in self.found.items() if not fault}
        videos = [kind_by_name(path) == "video" for path in files]
        names = dict(zip(files, unique_names(list(files.values()), videos), strict=True))
        return [
            Source(given, names.get(path, ""), kind_by_name(path) == "video", files.get(path, ""), fault)
            for path, (given, fault) in self.found.items()
        ]

    def _take_folder(self, folder: Path, listed: bool) -> None:
        if self._among_results(folder):
            self._add(folder, f"{show(folder)} holds results of predict; give footage, or another folder with -o")
            return
        files = self._files(folder)
        for path, fault in files:
            self._add(path, fault)
        if not files and listed:
            self._pass(folder, "without images and videos")
        elif not files:
            self._add(folder, f"{show(folder)} holds none of {ACCEPTED}")

    def _take_matching(self, pattern: str) -> None:
        base, parts = _fixed_part(pattern)
        self.bases.append(_absolute(base))
        before, passed = len(self.found), len(self.passed)
        matches = set(self._matching(base, parts))
        if not matches and len(self.passed) == passed:
            raise BackdropError(f"{show(pattern)} does not exist, and no file matches it")
        for path in sorted(matches, key=lambda path: (natural_key(str(path)), str(path))):
            if os.path.isdir(path):
                for file, fault in self._files(path):
                    self._add(file, fault)
            elif kind_by_name(path) and not is_region(path):
                self._add(path, self._fault(path))
            else:
                self._pass(path, CDNET_REGION if is_region(path) else look_at(path).why)
        if len(self.found) == before:
            self._add(Path(pattern), f"{show(pattern)} matches none of {ACCEPTED}")

    def _matching(self, folder: Path, parts: Sequence[str], linked: bool = False) -> Iterator[Path]:
        """What matches the parts of a pattern below a folder, some of it more than once. linked: see `_walk`.

        The standard library's glob does not end where links lead in circles.
        """
        self._read.add(_real(folder))
        head, rest = parts[0], parts[1:]
        if head == "**":
            yield from self._matching(folder, rest, linked) if rest else [folder]
            rest = parts
        for path in _one_level("*" if head == "**" else head, folder):
            if not os.path.isdir(path):
                if not rest:
                    yield path
            elif (why := self._judged(path, linked)) is not None:
                self._pass(path, why)
            elif rest:
                yield from self._matching(path, rest, linked or os.path.islink(path))
            else:
                yield path

    def _judged(self, folder: Path, linked: bool) -> str | None:
        """`_why_folder` of what a pattern gave. Who writes the dot of a hidden folder means it."""
        if folder.name.startswith("."):
            return None
        if folder.parent not in self._listed:
            with suppress(BackdropError):  # it cannot be listed: no folder beside this one is known
                self._listed[folder.parent] = look_into(folder.parent)
        return self._why_folder(look_at(folder), self._listed.get(folder.parent, []), linked)

    def _add(self, path: Path, fault: str = "") -> None:
        self.found.setdefault(_absolute(path), (path, fault))

    def _pass(self, path: Path, why: str) -> None:
        if why:
            self.passed[_real(path.parent) / path.name] = why

    def _fault(self, path: Path) -> str:
        """Why a file that was named is no source, or ""."""
        if not kind_by_name(path):
            return (
                f"{show(path)} is by its suffix neither an image ({' '.join(IMAGE_SUFFIXES)}) nor a video "
                f"({' '.join(VIDEO_SUFFIXES)})"
            )
        if self._among_results(path):
            return f"{show(path)} is a result of predict; give footage, or another folder with -o"
        why = trouble(path)
        return f"{show(path)}: {why}" if why else ""

    def _among_results(self, path: Path) -> bool:
        """Whether it lies where this command will write."""
        return self.out is not None and any(_real(path).is_relative_to(self.out / kind) for kind in RESULT_FOLDERS)

    def _files(self, folder: Path) -> list[tuple[Path, str]]:
        """The images and videos below a folder in natural order, each with its fault."""
        files = self._walk(folder)
        return sorted(files, key=lambda file: (natural_key(file[0].relative_to(folder).as_posix()), str(file[0])))

    def _walk(self, folder: Path, linked: bool = False) -> Iterator[tuple[Path, str]]:
        """As `_files`, in any order.

        Args:
            linked: whether a link led here. Then a link is not followed to what was read already: links among folders
                could otherwise lead anywhere in any order.
        """
        self._read.add(_real(folder))
        try:
            entries = look_into(folder)
        except BackdropError as fault:
            yield folder, str(fault)
            return
        for entry in entries:
            path, link = entry.path, os.path.islink(entry.path)
            why: str | None = entry.why
            if entry.kind == "folder":
                why = self._why_folder(entry, entries, linked)
            if entry.kind == "folder" and why is None:
                yield from self._walk(path, linked or link)
            elif entry.kind in ("image", "video") and not is_region(path):
                yield path, f"{show(path)}: {why}" if why else ""
            else:
                self._pass(path, CDNET_REGION if is_region(path) else why or "")

    def _why_folder(self, entry: Entry, beside: Sequence[Entry], linked: bool) -> str | None:
        """Why a folder is no input, "" where that need not be told; None: it is one."""
        parent, name = entry.path.parent, entry.path.name.lower()
        if _real(entry.path) == self.out:
            return ""
        result = name in RESULT_FOLDERS and (holds_results(parent) or _real(parent) == self.out)
        if result or holds_results(entry.path):
            return "results of predict"
        if is_truth(entry, beside):
            return "ground truth"
        real = _real(entry.path)
        if os.path.islink(entry.path) and (_real(parent).is_relative_to(real) or (linked and real in self._read)):
            return LOOP
        return None if entry.kind == "folder" else entry.why


def holds_results(folder: Path) -> bool:
    """Whether `predict` or `export` has written into it."""
    return os.path.isfile(folder / LOCK) and any(os.path.isdir(folder / kind) for kind in RESULT_FOLDERS)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises at a link to itself


def _absolute(path: Path) -> Path:
    return _real(path) if ".." in path.parts else Path(os.path.abspath(path))


def _common(folders: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # on several drives
        return Path()


def _below(path: Path, base: Path) -> str:
    return path.relative_to(base if path.is_relative_to(base) else path.anchor).as_posix()


def _fixed_part(pattern: str) -> tuple[Path, list[str]]:
    """The folder that a pattern's first part names as it stands, and the other parts.

    Names may hold *, ? and [...]: where such a folder exists it is meant.
    """
    base, parts = Path(), list(Path(pattern).parts)
    while len(parts) > 1 and os.path.isdir(same_named(base / parts[0])):
        base = same_named(base / parts.pop(0))
    return base, parts


def _one_level(pattern: str, folder: Path) -> list[Path]:
    """The entries of a folder that match a pattern, in either Unicode form, with brackets as they are, too."""
    forms = {pattern, *(unicodedata.normalize(form, pattern) for form in ("NFC", "NFD"))}
    texts = forms | {form.replace("[", "[[]") for form in forms}
    names = {name for text in texts for name in glob.glob(text, root_dir=folder)}
    return [folder / name for name in sorted(names)]


def unique_names(files: Sequence[str], videos: Sequence[bool]) -> list[str]:
    """What the outputs of sources are called, so that no output of one has the path of another's.

    A name is the path without its suffix. Where two are the same, or a video's is that of a folder, the suffix stays.
    Where that does not tell them apart, eight hex digits of the path's SHA-1 follow. Upper and lower case count as the
    same, and so do the two Unicode forms and dots and blanks at the end, because some disks take them so. Names of
    Windows' devices get a "_".

    Args:
        files: paths of the sources, no two the same, with "/" between folders.
        videos: which of them are videos.
    """
    forms = [0] * len(files)
    while True:
        names = [_formed(file, form) for file, form in zip(files, forms, strict=True)]
        clashing = [i for i in _clashing(names, videos) if forms[i] < 2]
        if not clashing:
            return names
        for i in clashing:
            forms[i] += 1


def _formed(file: str, form: int) -> str:
    """The path without suffix (0), with it (1), or with a hash in its place (2)."""
    folder, _, last = "/".join(map(_no_device, file.split("/"))).rpartition("/")
    stem = Path(last).stem
    if form == 2:
        last = f"{stem}-{hashlib.sha1(os.fsencode(file)).hexdigest()[:8]}"
    elif form == 0 and stem.strip("."):  # of "...mp4" the folder above would be left
        last = stem
    return f"{folder}/{last}" if folder else last


def _no_device(name: str) -> str:
    head, dot, rest = name.partition(".")
    return f"{head}_{dot}{rest}" if head.strip().lower() in RESERVED else name


def _clashing(names: Sequence[str], videos: Sequence[bool]) -> Iterator[int]:
    """The names that have to change."""
    keys = [same_on_any_disk(name) for name in names]
    count = Counter(keys)
    images = Counter(key for key, video in zip(keys, videos, strict=True) if not video)
    above = {key[:place] for key in keys for place, letter in enumerate(key) if letter == "/"}
    frames = {key for key, video in zip(keys, videos, strict=True) if video}
    for i, (key, video) in enumerate(zip(keys, videos, strict=True)):
        alone = count[key] == 1 or (not video and images[key] == 1)  # a video gives way to an image
        written = {key + end for end in (OF_VIDEOS if video else OF_IMAGES)} | ({key} if video else set())
        if not alone or written & (above if video else above | frames):
            yield i


def same_on_any_disk(name: str) -> str:
    """A key that is equal for paths that some disk takes for one: see `unique_names`."""
    parts = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).split("/")
    return "/".join(part.rstrip(". ") or part for part in parts)
