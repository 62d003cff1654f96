"""Data sets: which files are the frames and masks of which sequence, and their extraction into archives.

Layouts differ in their file listing only (see `LAYOUTS`); everything after the listing is shared.

Names. A sequence is named after its folder or file, in letters that every file system and shell takes:
accents are dropped; anything but ASCII letters, digits, "-", "_" and "." becomes "_"; "-", "_" and "." go
from both ends; 80 letters are kept. If several sources under a root get the same name (upper and lower case
count as the same), each of them gets "-" and eight hex digits of the SHA-1 of its path below the root, so that
no name depends on the order of files. A name that loses all its letters becomes "sequence-" and those digits.
The index table keeps the source's own path.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
import unicodedata
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from backdrop import video
from backdrop.errors import BackdropError, StrictError, WriteError
from backdrop.processes import each, threads_each
from backdrop.video import BACKGROUND, FOREGROUND, RGB, VOID, Gray, parts_folder, show

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".3gp", ".ogv", ".ts", ".mts", ".m2ts"),
)
ACCEPTED = f"videos ({' '.join(VIDEO_SUFFIXES)}) or images ({' '.join(IMAGE_SUFFIXES)})"
SPLITS = ("train", "val", "test")
_PLAIN_FILES = ("", ".txt", ".md", ".json", ".csv", ".yaml", ".yml", ".xml", ".srt", ".dvc", ".db", ".ini")

INDEX_COLUMNS = (
    *("sequence", "split", "source", "status", "reason", "frames", "declared_frames", "width", "height"),
    *("source_width", "source_height", "fps", "masks"),
)
_TEXT_COLUMNS = ("sequence", "split", "source", "status", "reason")


@runtime_checkable
class DataSection(Protocol):
    """The section `data` of the parameters, as far as it is read here."""

    @property
    def layout(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def size(self) -> tuple[int, int] | None: ...
    @property
    def every(self) -> int: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def protocol(self) -> str: ...
    @property
    def val(self) -> list[str]: ...
    @property
    def test(self) -> list[str]: ...
    @property
    def only(self) -> list[str]: ...
    @property
    def strict(self) -> bool: ...
    @property
    def quality(self) -> int: ...


@dataclass(frozen=True)
class Sequence:
    """One sequence as its files lie on disk; nothing has been opened yet.

    Attributes:
        name: safe and unique, see the module.
        source: its path below the root, for tables and messages.
        split: train, val, test, all, or None where the layout has no splits of its own.
        video: the video file, or None.
        images: the frames' files in order, empty for a video.
        masks: frame number in the source -> mask file.
        mask_archive: a zip with masks/%06d.png by frame number instead.
        mask_rule: how mask values are read, see `decode_mask`.
        mask_scaled: masks may have another size than the frames, in the same proportions.
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
    fps: float = 25.0
    fault: str = ""
    note: str = ""


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk: its listing, and what it expects in words."""

    listing: Callable[[Path], list[Sequence]]
    expects: str


# ------------------------------------------------------------------------------------------------ names


def safe_name(text: str) -> str:
    """`text` in at most 80 ASCII letters, digits, "-", "_" and ".", with none of "-_." at its ends; may be empty."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(r"[^A-Za-z0-9._-]", "_", plain).lstrip("-_.")[:80].rstrip("-_.")


def _named(sequences: list[Sequence]) -> list[Sequence]:
    """The sequences with safe, unique names, in natural order of their source."""

    def digest(sequence: Sequence) -> str:
        return hashlib.sha1(os.fsencode(sequence.source)).hexdigest()[:8]

    safe = [safe_name(s.name) for s in sequences]
    count = Counter(name.lower() for name in safe)
    named = []
    for sequence, name in zip(sequences, safe, strict=True):
        if not name or count[name.lower()] > 1:
            name = f"{name or 'sequence'}-{digest(sequence)}"
        named.append(replace(sequence, name=name, source=show(sequence.source)))
    return sorted(named, key=lambda s: (_natural(s.source), s.source))


def _natural(text: str) -> list[str | int]:
    """A sort key that puts frame10 after frame9."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", text))]


# ---------------------------------------------------------------------------------------- file listings


def _entries(folder: Path) -> list[Path]:
    """Visible entries of a folder in natural order; hidden files are other programs' (.DS_Store, ._x.jpg)."""
    try:
        visible = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as fault:
        raise BackdropError(f"cannot list {show(folder)}: {fault.strerror}") from fault
    return sorted(visible, key=lambda p: (_natural(p.name), p.name))


def _files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files of a folder with one of the suffixes (any case), in natural order; [] if there is no such folder."""
    if not folder.is_dir():
        return []
    return [p for p in _entries(folder) if p.suffix.lower() in suffixes and p.is_file()]


def _folders(folder: Path) -> list[Path]:
    return [p for p in _entries(folder) if p.is_dir()] if folder.is_dir() else []


def _stem_number(path: Path) -> int | None:
    """The digits that end a file's stem, as a number: frame_000012.png -> 12."""
    digits = re.search(r"([0-9]+)$", path.stem)
    return int(digits[1]) if digits else None


def _image_folder(
    folder: Path, source: str, masks: Path | None, suffixes: Iterable[str] = IMAGE_SUFFIXES, **rest: Any
) -> Sequence:
    """A folder of images, with the masks of the same stems from another folder."""
    images = tuple(_files(folder, suffixes))
    sequence = Sequence(name=folder.name, source=source, images=images, **rest)
    if not images:
        what = "is empty" if not _entries(folder) else "holds no image"
        return replace(sequence, fault=f"the folder {what}; put videos beside it or frames into it: {ACCEPTED}")
    twice = [stem for stem, n in Counter(p.stem for p in images).items() if n > 1]
    if twice:
        return replace(
            sequence, fault=f"two images are named {show(twice[0])}.*; keep one (masks belong in masks/<sequence>/)"
        )
    number = {p.stem: i for i, p in enumerate(images)}
    return _with_masks(sequence, masks, lambda path: number.get(path.stem))


def _video_file(path: Path, source: str, masks: Path | None, **rest: Any) -> Sequence:
    """A video, with masks numbered by frame (from 0) from a folder."""
    return _with_masks(Sequence(name=path.stem, source=source, video=path, **rest), masks, _stem_number)


def _with_masks(sequence: Sequence, folder: Path | None, frame_of: Callable[[Path], int | None]) -> Sequence:
    """The sequence with the masks of a folder; masks of no frame are a note, a folder without a match a fault."""
    if folder is None or not folder.is_dir():
        return sequence
    files = _files(folder, IMAGE_SUFFIXES)
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
    note = f"masks without a frame: {len(strays)} (first: {show(strays[0])})" if strays else ""
    return replace(sequence, masks=masks, note=note)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.resolve().name


def _mask_folder(masks: Path, path: Path) -> Path:
    """The masks of a source: masks/<its full name> if there is one, else masks/<stem>, else masks/<safe name>."""
    choices = [masks / path.name, masks / (path.stem if path.is_file() else path.name)]
    return next((c for c in choices if c.is_dir()), masks / safe_name(choices[1].name))


def _videos(
    root: Path, split: str | None = None, masks: Path | None = None, base: Path | None = None
) -> list[Sequence]:
    masks, base = masks or root / "masks", base or root
    if root.is_file():
        return [_video_file(root, root.name, _mask_folder(root.parent / "masks", root), split=split)]
    if _files(root, IMAGE_SUFFIXES):
        return [_image_folder(root, _below(root, base), _mask_folder(masks, root), split=split)]
    found, ignored = [], []
    for path in _entries(root):
        if path == masks:
            continue
        source, mask_folder = _below(path, base), _mask_folder(masks, path)
        if path.is_dir():
            found.append(_image_folder(path, source, mask_folder, split=split))
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            found.append(_video_file(path, source, mask_folder, split=split))
        elif path.suffix.lower() not in _PLAIN_FILES:
            ignored.append(path)
    if ignored:
        _warn(f"ignored, not known as video: {', '.join(show(p) for p in ignored)}; accepted are {ACCEPTED}")
    return found


def _plain_splits(root: Path) -> list[Sequence]:
    masks = root / "masks"
    splits = [s for s in SPLITS if (root / s).is_dir()]
    return [q for s in splits for q in _videos(root / s, s, masks / s if (masks / s).is_dir() else masks, root)]


def _synthetic(root: Path) -> list[Sequence]:
    found = []
    for split in (s for s in SPLITS if (root / "videos" / s).is_dir()):
        for path in _files(root / "videos" / split, VIDEO_SUFFIXES):
            truth = root / "truth" / f"{path.stem}.zip"
            archive = truth if truth.is_file() else None
            found.append(_video_file(path, _below(path, root), None, split=split, mask_archive=archive))
    twice = [name for name, n in Counter(s.name for s in found).items() if n > 1]
    if twice:
        raise BackdropError(
            f"{show(root)}: two videos are named {twice[0]}, but truth/{twice[0]}.zip can be of one only"
        )
    return found


def _davis(root: Path) -> list[Sequence]:
    resolutions = _folders(root / "JPEGImages")
    if not resolutions:
        return []
    order = {"480p": 0, "1080p": 1, "Full-Resolution": 2}
    images = min(resolutions, key=lambda p: order.get(p.name, 3))
    annotations = root / "Annotations" / images.name
    splits = _davis_splits(root, images.name)
    return [
        _image_folder(f, _below(f, root), annotations / f.name, split=splits.get(f.name), fps=24.0)
        for f in _folders(images)
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
                splits[first.parent.name if first.suffix else first.name] = split
    return splits


def _cdnet(root: Path) -> list[Sequence]:
    found = []
    for folder in sorted({p.parent for depth in ("", "*/", "*/*/", "*/*/*/") for p in root.glob(f"{depth}input")}):
        sequence = _image_folder(folder / "input", _below(folder, root), None, mask_rule="cdnet")
        first, last = _cdnet_interval(folder)
        number = {_stem_number(p): i for i, p in enumerate(sequence.images)}
        masks: dict[int, Path] = {}
        # the five-label truth, where it is kept apart, knows shadow and unknown pixels that a binarized one lost
        for truth in ("groundtruth", "groundtruth_5labels"):
            for path in _files(folder / truth, IMAGE_SUFFIXES):
                shown = _stem_number(path)
                if shown in number and shown is not None and first <= shown <= last:
                    masks[number[shown]] = path
        found.append(replace(sequence, name=folder.resolve().name, masks=masks))
    return found


def _cdnet_interval(folder: Path) -> tuple[int, int]:
    """First and last frame that CDnet evaluates (temporalROI.txt); masks of other frames are withheld, not empty."""
    file = folder / "temporalROI.txt"
    numbers = re.findall(r"[0-9]+", file.read_text()) if file.is_file() else []
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (0, sys.maxsize)


def _bms(root: Path) -> list[Sequence]:
    base = root / "moseg_dataset" if (root / "moseg_dataset").is_dir() else root
    suffixes = [s for s in IMAGE_SUFFIXES if s != ".pgm"]
    found = []
    for folder in _folders(base):
        sequence = _image_folder(folder, _below(folder, root), None, suffixes, mask_rule="instances")
        number = {p.stem: i for i, p in enumerate(sequence.images)}
        masks = {number[p.stem]: p for p in _files(folder, [".pgm"]) if p.stem in number}
        found.append(replace(sequence, masks=masks))
    return found


# Ski-PTZ: trials of the two skiers, in the order four / one / one for training, validation and test.
_SKI_TRIALS = {"train": (103, 124, 202, 221, 115, 110, 214, 207), "val": (302, 309), "test": (412, 405)}


def _ski_ptz(root: Path) -> list[Sequence]:
    folders = [root / name for name in ("Videos_Small", "Videos_small", "Videos") if (root / name).is_dir()]
    if not folders:
        return []
    split_of = {trial: split for split, trials in _SKI_TRIALS.items() for trial in trials}
    masks = _ski_masks(root / "Segmentation_masks")
    found = []
    for folder in _folders(folders[0]):
        match = re.fullmatch(r"trial_([0-9]+)_cam_?([0-9]+)", folder.name)
        if match is None or int(match[1]) not in split_of:
            continue
        sequence = _image_folder(
            folder, _below(folder, root), None, split=split_of[int(match[1])], mask_rule="over200", mask_scaled=True
        )
        own = masks.get((int(match[1]), int(match[2])), {})
        number = {_stem_number(p): i for i, p in enumerate(sequence.images)}
        found.append(replace(sequence, masks={number[f]: p for f, p in own.items() if f in number}))
    return found


def _ski_masks(folder: Path) -> dict[tuple[int, int], dict[int, Path]]:
    """(trial, camera) -> frame -> mask, read from names like trial_302_cam1_frame_000021.jpg or folders of them."""
    masks: dict[tuple[int, int], dict[int, Path]] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        match = re.search(r"trial_([0-9]+)_cam_?([0-9]+)[^0-9]+([0-9]+)$", stem)
        if match and path.suffix.lower() in IMAGE_SUFFIXES:
            masks.setdefault((int(match[1]), int(match[2])), {})[int(match[3])] = path
    return masks


_PLAIN = (
    "{train,val,test}/<video or folder of images>, and optionally masks/<sequence>/<stem of the frame>.png "
    "(or masks/{train,val,test}/<sequence>/...)"
)
LAYOUTS: dict[str, Layout] = {
    "synthetic": Layout(
        _synthetic, "videos/{train,val,test}/<sequence>.mp4 and truth/<sequence>.zip holding masks/%06d.png"
    ),
    "videos": Layout(
        _videos,
        "video files and folders of images, one a sequence (or one video file, or one folder of images); optionally "
        "masks/<sequence>/<stem of the image, or frame number from 0>.png",
    ),
    "davis": Layout(
        _davis,
        "JPEGImages/480p/<sequence>/*.jpg and Annotations/480p/<sequence>/*.png (or another resolution); "
        "ImageSets/480p/{train,val}.txt, where present, are the splits train and test",
    ),
    "ski_ptz": Layout(
        _ski_ptz, "Videos_Small/trial_<t>_cam<c>/frame_<number>.jpg (or Videos/) and Segmentation_masks/"
    ),
    "handheld190k": Layout(_plain_splits, _PLAIN),
    "fs_singles": Layout(_plain_splits, _PLAIN),
    "h36m": Layout(_plain_splits, _PLAIN),
    "cdnet": Layout(_cdnet, "<category>/<sequence>/input/in%06d.jpg and .../groundtruth/gt%06d.png"),
    "bms": Layout(_bms, "<sequence>/<name>.jpg, with a mask <name>.pgm beside some of them"),
}


def describe_layouts() -> str:
    """All layouts and what each expects under its root, one a line."""
    return "\n".join(f"{name}: {layout.expects}" for name, layout in LAYOUTS.items())


def list_sequences(layout: str, root: Path | str) -> list[Sequence]:
    """The sequences under a root, by file listing only.

    Args:
        layout: a key of `LAYOUTS`.
        root: the data set's folder.

    Raises:
        BackdropError: unknown layout, missing root, or nothing of the layout under it.
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise BackdropError(f"unknown data.layout {layout!r}; layouts are {', '.join(LAYOUTS)}")
    if not root.exists():
        raise BackdropError(f"data.root {show(root)} does not exist; set data.root to the folder of the footage")
    found = LAYOUTS[layout].listing(root)
    if not found:
        present = ", ".join(show(p.name) for p in _entries(root)[:8]) if root.is_dir() else "a file"
        raise BackdropError(
            f"data.root {show(root)} holds no sequence of layout {layout} (found: {present or 'nothing'}); "
            f"expected {LAYOUTS[layout].expects}. Accepted are {ACCEPTED}"
        )
    return _named(found)


# ----------------------------------------------------------------------------------------------- splits


def assign_splits(
    sequences: list[Sequence], protocol: str, val: Iterable[str] = (), test: Iterable[str] = ()
) -> list[Sequence]:
    """The sequences with their split.

    Args:
        protocol: self: every sequence is "all", trained on and scored on itself. held_out: by the globs if
            any is given (the rest is train), else by the layout's own splits.
        val, test: globs over sequence names or source file names.

    Raises:
        BackdropError: a glob matches nothing, a sequence is both val and test, no splits are known,
            or nothing is left to train on or to test on.
    """
    if protocol == "self":
        return [replace(s, split="all") for s in sequences]
    globs = {"val": list(val), "test": list(test)}
    if any(globs.values()):
        sequences = _split_by_globs(sequences, globs)
    unknown = [s.name for s in sequences if s.split is None]
    if unknown:
        raise BackdropError(
            f"protocol held_out: the split of {unknown[0]} is unknown; name sequences in data.val and data.test "
            "(globs, the rest is for training), or set data.protocol to self"
        )
    _require_both(sequences, [s.split for s in sequences])
    return sequences


def _matches(sequence: Sequence, glob: str) -> bool:
    names = {sequence.name, Path(sequence.source).name, Path(sequence.source).stem}
    return any(fnmatchcase(name, glob) for name in names)


def _matched(sequences: list[Sequence], key: str, globs: Iterable[str]) -> list[Sequence]:
    """The sequences that any of the globs of the parameter `key` matches; a glob that matches none is an error."""
    globs = list(globs)
    for glob in globs:
        if not any(_matches(s, glob) for s in sequences):
            names = ", ".join(s.name for s in sequences[:20])
            raise BackdropError(f"{key}: no sequence matches {glob!r}; there are {names}")
    return [s for s in sequences if any(_matches(s, glob) for glob in globs)]


def _split_by_globs(sequences: list[Sequence], globs: dict[str, list[str]]) -> list[Sequence]:
    named = {split: _matched(sequences, f"data.{split}", patterns) for split, patterns in globs.items()}
    chosen = []
    for sequence in sequences:
        hits = [split for split, matched in named.items() if sequence in matched]
        if len(hits) > 1:
            raise BackdropError(f"data.val and data.test both match {sequence.name}; a sequence has one split")
        chosen.append(replace(sequence, split=hits[0] if hits else "train"))
    return chosen


def _require_both(sequences: Iterable[Any], splits: Iterable[str | None]) -> None:
    present = set(splits)
    for needed in ("train", "test"):
        if needed not in present:
            raise BackdropError(
                f"protocol held_out: no usable {needed} sequence is left; change data.val and data.test, "
                "or set data.protocol to self"
            )


# ------------------------------------------------------------------------------------------------ masks


def decode_mask(source: bytes | Path, rule: str = "any", name: str | None = None) -> Gray:
    """A mask of a data set as (H, W) uint8: 0 background, 255 foreground, 128 void (ignored when scoring).

    Rules:
        any: palette images: index 0 background, 255 void where its color is not white (as VOC has it), others
            foreground. Gray images (or RGB with equal channels): if all values are below 128 they are labels,
            and all but 0 are foreground; else 128 is void, less background, more foreground.
        instances: all but 0 is foreground.
        cdnet: 0 background, 50 shadow (background), 85 outside the region and 170 unknown (void), 255 foreground.
        over200: values over 200 are foreground; for masks stored as JPEG.

    Raises:
        BackdropError: unreadable, colored, or values that the rule does not know; the message names the mask.
    """
    name = name or (show(source) if isinstance(source, Path) else "mask")
    image = video.open_image(source, name)
    values = _labels(image, name)
    if rule == "instances":
        return _two_valued(values > 0)
    if rule == "over200":
        return _two_valued(values > 200)
    if rule == "cdnet":
        unknown = np.setdiff1d(values, (0, 50, 85, 170, 255))
        if unknown.size:
            raise BackdropError(f"mask {name} has the value {unknown[0]}; CDnet's labels are 0, 50, 85, 170, 255")
        mask = _two_valued(values == 255)
        mask[(values == 85) | (values == 170)] = VOID
        return mask
    if rule != "any":
        raise ValueError(f"unknown mask rule {rule!r}")
    if image.mode == "P" or values.max() < 128:
        mask = _two_valued(values > 0)
        if image.mode == "P" and (image.getpalette("RGB") or [])[765:768] not in ([], [255, 255, 255]):
            mask[values == 255] = VOID
        return mask
    mask = _two_valued(values > 128)
    mask[values == 128] = VOID
    return mask


def _two_valued(foreground: np.ndarray) -> Gray:
    return np.where(foreground, FOREGROUND, BACKGROUND).astype(np.uint8)


def _labels(image: Image.Image, name: str) -> np.ndarray:
    """(H, W) integers: palette indices, or gray values; 16-bit gray beyond 255 is scaled to 0..255."""
    if image.mode == "P":
        return np.asarray(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return values // 257 if values.max() > 255 else values
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    channels = np.asarray(image.convert("RGB")).astype(np.int16)
    if np.ptp(channels, axis=2).max() > 8:  # JPEG may tint a gray by a little
        raise BackdropError(f"mask {name} is colored; save it as gray (0 background, 255 foreground) or with a palette")
    return channels[:, :, 0]


class _Masks:
    """Ground truth of one sequence by frame number in the source, from files or from one archive."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.entries: dict[int, str] = {}
        self.archive: zipfile.ZipFile | None = None
        if sequence.mask_archive is not None:
            try:
                self.archive = zipfile.ZipFile(sequence.mask_archive)
            except video.ZIP_FAULTS as fault:
                raise BackdropError(f"{show(sequence.mask_archive)} is no readable zip; make it again") from fault
            for entry in self.archive.namelist():
                match = re.fullmatch(r"masks/([0-9]+)\.png", entry)
                if match:
                    self.entries[int(match[1])] = entry

    def close(self) -> None:
        if self.archive is not None:
            self.archive.close()

    def numbers(self) -> set[int]:
        return set(self.entries) | set(self.sequence.masks)

    def read(self, index: int, size: tuple[int, int], frame: str) -> Gray | None:
        """The mask of source frame `index`, checked against the frame's size (width, height); None without."""
        rule = self.sequence.mask_rule
        if self.archive is not None and index in self.entries:
            name = f"{show(self.sequence.mask_archive or '')}:{self.entries[index]}"
            try:
                data = self.archive.read(self.entries[index])
            except video.ZIP_FAULTS as fault:
                raise BackdropError(f"mask {name} is damaged; make the archive again") from fault
            mask = decode_mask(data, rule, name)
        elif index in self.sequence.masks:
            name = show(self.sequence.masks[index])
            mask = decode_mask(self.sequence.masks[index], rule)
        else:
            return None
        height, width = mask.shape
        same = abs(width * size[1] - height * size[0]) <= max(size) if self.sequence.mask_scaled else False
        if (width, height) != size and not same:
            raise BackdropError(
                f"mask {name} is {width}x{height}, its frame {frame} is {size[0]}x{size[1]}; "
                "give the mask the size of the frame"
            )
        return mask


# ------------------------------------------------------------------------------------------- extraction


def extract_sequence(
    sequence: Sequence,
    out_dir: Path | str,
    size: tuple[int, int] | None = None,
    every: int = 1,
    limit: int | None = None,
    quality: int = 95,
    threads: int = 1,
) -> dict[str, Any]:
    """Write `<out_dir>/<name>.zip` of one sequence, streaming, and return its row of the index.

    Frames are resized to `size` without regard to proportions (None keeps their own); masks keep the truth's
    own size. The row's `fps` is that of the stored frames, `every` included.

    Args:
        sequence: from `list_sequences`.
        size: (width, height) in pixels.
        every: keep every n-th frame.
        limit: at most this many frames.
        quality: JPEG quality.
        threads: for decoding, and for resizing and encoding beside it.

    Raises:
        BackdropError: the sequence cannot be used; nothing is left on disk then.
    """
    if sequence.fault:
        raise BackdropError(f"{sequence.source}: {sequence.fault}")
    tally = video.Tally()
    info = video.probe(sequence.video) if sequence.video else None
    with closing(_Masks(sequence)) as masks, closing(_read(sequence, every, threads, tally)) as source:
        kept = _same_size(itertools.islice(source, limit), sequence)
        path = Path(out_dir) / f"{sequence.name}.zip"
        has_mask, source_size = _store(path, kept, sequence, masks, size, quality, threads)
        strays = [n for n in masks.numbers() if info and n >= tally.decoded + tally.lost]
    reason = video.damage(info, tally) if info else ""
    notes = [text for text in (reason, sequence.note) if text]
    if strays and tally.complete and not reason:
        notes.append(f"masks without a frame: {len(strays)} (first: frame {min(strays)})")
    width, height = size or source_size
    return {
        "sequence": sequence.name,
        "split": sequence.split or "all",
        "source": sequence.source,
        "status": "damaged" if reason else "ok",
        "reason": "; ".join(notes),
        "frames": len(has_mask),
        "declared_frames": info.declared_frames if info else len(sequence.images),
        "width": width,
        "height": height,
        "source_width": source_size[0],
        "source_height": source_size[1],
        "fps": round((info.fps if info else sequence.fps) / every, 6),
        "masks": sum(has_mask),
    }


def _store(
    path: Path,
    frames: Iterable[tuple[int, float, str, RGB]],
    sequence: Sequence,
    masks: _Masks,
    size: tuple[int, int] | None,
    quality: int,
    threads: int,
) -> tuple[list[bool], tuple[int, int]]:
    """Write the archive; which stored frames have a mask, and the size (width, height) of the source."""
    names, times, has_mask = [], [], []

    def encode(item: tuple[int, float, str, RGB]) -> tuple[float, str, bytes, bytes | None, tuple[int, int]]:
        index, time, name, image = item
        own_size = (image.shape[1], image.shape[0])
        mask = masks.read(index, own_size, _frame_name(sequence, index))
        jpeg = video.encode_jpeg(video.resize(image, size), quality)
        return time, name, jpeg, None if mask is None else video.encode_png(mask), own_size

    with ThreadPoolExecutor(threads) as pool, video.ArchiveWriter(path) as archive:
        for t, (time, name, jpeg, mask, own_size) in enumerate(_in_order(pool, encode, frames, 2 * threads)):
            archive.add(f"images/{t:06d}.jpg", jpeg)
            if mask is not None:
                archive.add(f"masks/{t:06d}.png", mask)
            names.append(name)
            times.append(time)
            has_mask.append(mask is not None)
            source_size = own_size
        if len(names) < 2:
            raise BackdropError(
                f"{sequence.source} gives {len(names)} frame(s) with data.every; at least 2 are needed: "
                "remove it, or lower data.every"
            )
        archive.add("frames.csv", video.frames_table(_unique(names), times, has_mask))
    return has_mask, source_size


def _frame_name(sequence: Sequence, index: int) -> str:
    return show(sequence.images[index]) if sequence.images else f"{index} of {sequence.source}"


def _read(
    sequence: Sequence, every: int, threads: int, tally: video.Tally
) -> Generator[tuple[int, float, str, RGB], None, None]:
    """Yield (frame number in the source, seconds, frame name, image) of every n-th frame."""
    if sequence.video is not None:
        for index, time, image in video.decode_video(sequence.video, every, threads, tally):
            yield index, time, f"{index:06d}", image
    for index in range(0, len(sequence.images), every):
        path = sequence.images[index]
        yield index, index / sequence.fps, path.stem, video.decode_image(path)


def _same_size(
    frames: Iterable[tuple[int, float, str, RGB]], sequence: Sequence
) -> Iterator[tuple[int, float, str, RGB]]:
    """The same frames, checked: all of a sequence must have one size, or no two could be laid over each other."""
    first: tuple[int, ...] | None = None
    for index, time, name, image in frames:
        first = first or image.shape
        if image.shape != first:
            raise BackdropError(
                f"frame {_frame_name(sequence, index)} is {image.shape[1]}x{image.shape[0]}, the frames before it are "
                f"{first[1]}x{first[0]}; frames of one sequence must have one size: split or resize them"
            )
        yield index, time, name, image


def _in_order(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """pool.map that takes at most `ahead` items before their results are used: memory stays bounded."""
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _unique(names: list[str]) -> list[str]:
    """Frame names that are safe file names, or plain numbers where that would make two of them equal."""
    safe = [safe_name(name) for name in names]
    if all(safe) and len({name.lower() for name in safe}) == len(safe):
        return safe
    return [f"{t:06d}" for t in range(len(names))]


def extract_all(data: DataSection, out_dir: Path | str, workers: int = 1) -> pd.DataFrame:
    """Extract every sequence under `data.root` into `out_dir`, and write `index.csv` there.

    Sequences run in parallel processes. Nothing in `out_dir` changes before all are done; archives of sequences that
    no longer exist are removed.

    Videos are not cut into chunks as in later stages: decoding begins at keyframes only, and which number the frame
    after a leap has is not known in a file that is damaged, edited or of a variable rate. Where there are fewer
    sequences than processes, each decodes, resizes and encodes in threads instead; a long video among many has one.

    Args:
        data: the parameters' section `data`.
        out_dir: folder of the archives.
        workers: processes.

    Returns:
        The index: one row a sequence, skipped ones with their reason.

    Raises:
        StrictError: `data.strict`, and a sequence is skipped or damaged; names all of them.
        BackdropError: no sequence is usable, or held_out is left without train or test sequences.
    """
    out_dir = Path(out_dir)
    sequences = list_sequences(data.layout, data.root)
    if data.only:
        sequences = _matched(sequences, "data.only", data.only)
    sequences = assign_splits(sequences, data.protocol, data.val, data.test)
    threads = threads_each(len(sequences), workers)  # one long video uses the cores by itself
    with parts_folder(out_dir) as folder:
        calls = [(s, folder, data.size, data.every, data.limit, data.quality, threads) for s in sequences]
        index = _table(_extracted(calls, workers))
        _judge(index, data)
        _publish(folder, out_dir, index)
    return index


def _extract_or_skip(sequence: Sequence, folder: Path, *args: Any) -> dict[str, Any]:
    """`extract_sequence`, with a fault as a row of the index."""
    try:
        return extract_sequence(sequence, folder, *args)
    except WriteError:
        raise  # the footage is as good as it was
    except BackdropError as fault:
        row: dict[str, Any] = dict.fromkeys(INDEX_COLUMNS)
        row.update(sequence=sequence.name, split=sequence.split or "all", source=sequence.source)
        return {**row, "status": "skipped", "reason": " ".join(str(fault).split()), "frames": 0, "masks": 0}


def _extracted(calls: list[tuple], workers: int) -> list[dict[str, Any]]:
    """The calls' rows in order, with a progress bar, and a warning for each row that has one coming."""
    rows = []
    for row in tqdm(each(_extract_or_skip, calls, workers), total=len(calls), desc="frames", unit="sequence"):
        rows.append(row)
        if row["reason"]:
            _warn(f"{row['sequence']} ({row['status']}): {row['reason']}")
    return rows


def _warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(INDEX_COLUMNS))
    for column in INDEX_COLUMNS:
        kind = "str" if column in _TEXT_COLUMNS else "Float64" if column == "fps" else "Int64"
        table[column] = table[column].astype(kind)
    return table


def _judge(index: pd.DataFrame, data: DataSection) -> None:
    """Raise if the extracted sequences are not enough to go on with."""
    bad = index[index.status != "ok"]
    listed = "; ".join(f"{row.sequence} ({row.status}): {row.reason}" for row in bad.itertuples())
    if data.strict and len(bad):
        raise StrictError(f"data.strict: {len(bad)} of {len(index)} sequences are not whole: {listed}")
    usable = index[index.status != "skipped"]
    if usable.empty:
        raise BackdropError(f"no sequence under {show(data.root)} can be used: {listed}")
    if data.protocol == "held_out":
        _require_both(usable, usable.split)


def _publish(staging: Path, out_dir: Path, index: pd.DataFrame) -> None:
    """Move the archives to their place; the index, which makes them count, goes last."""
    text = index.to_csv(index=False, lineterminator="\n").encode()
    old = out_dir / "index.csv"
    stale = set(index.sequence[index.status == "skipped"])
    with suppress(BackdropError):  # no earlier index: nothing of ours to remove
        stale |= set(read_index(out_dir).sequence) - set(index.sequence)
    old.unlink(missing_ok=True)
    for name in stale:
        (out_dir / f"{name}.zip").unlink(missing_ok=True)
    for archive in sorted(staging.glob("*.zip")):
        os.replace(archive, out_dir / archive.name)
    with video.atomic_path(old) as temporary:
        temporary.write_bytes(text)


def read_index(frames_dir: Path | str, usable: bool = False) -> pd.DataFrame:
    """`index.csv` of a folder of archives, one row a sequence; with `usable` without the skipped ones.

    Raises:
        BackdropError: missing or not an index.
    """
    path = Path(frames_dir) / "index.csv"
    try:
        numbers = [c for c in INDEX_COLUMNS if c not in _TEXT_COLUMNS]
        # a sequence may be named 007 or NA: text stays text
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT_COLUMNS, "str"),
            keep_default_na=False,
            na_values=dict.fromkeys(numbers, [""]),
        )
        table = _table(table[list(INDEX_COLUMNS)].to_dict("records"))
        if not all(video.is_file_name(name) for name in table.sequence):
            raise ValueError("a sequence's name leads elsewhere")
        if table.sequence.duplicated().any():
            raise ValueError("a sequence is listed twice, and could be trained on and scored")
    except FileNotFoundError as fault:
        raise BackdropError(f"{show(path)} does not exist; run the stage frames first") from fault
    except (KeyError, ValueError, TypeError, pd.errors.ParserError) as fault:
        raise BackdropError(f"{show(path)} is not an index of frames; run the stage frames again") from fault
    return table[table.status != "skipped"].reset_index(drop=True) if usable else table
