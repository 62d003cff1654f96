"""Regions of interest (`data.roi`, or a data set's own): white counts, black is ignored from stabilization to scores.

Each sequence's region is stored in its archive, where all later stages find it (`FrameArchive.region`).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from backdrop.errors import BackdropError
from backdrop.frames.entries import NAMED, look_into, nfc
from backdrop.frames.layouts.listing import Sequence, warn
from backdrop.io.files import show
from backdrop.io.images import Gray, encode_png
from backdrop.io.mask_images import decode_region
from backdrop.io.masks import VOID, Mask, resize_region

DEFAULT = "default"
"""The stem of the image, in a folder of them, for videos that have none of their own."""


class RegionImages:
    """The images of a user's regions of interest: one for all videos, or a folder with one for each.

    Args:
        place: the image; or the folder, with `<video>.png` for each and, for the others, `default.png`.
        key: what messages call it: the parameter or the option that names it.

    Raises:
        BackdropError: `place` does not exist, the folder holds no PNG, or the one image is no region (`decode_region`).
    """

    def __init__(self, place: Path, key: str) -> None:
        self.place, self.what = place, f"{key} {show(place)}"
        if not os.path.exists(place):
            raise BackdropError(f"{self.what} does not exist; name an image, or a folder with one for each video")
        self.one_for_all = not place.is_dir()
        if self.one_for_all:
            decode_region(place, self.what)  # what is wrong with it is said once, not of each video
            self.images = {DEFAULT: place}
            return
        found = (one.path for one in look_into(place) if one.kind)
        self.images = {nfc(path.stem): path for path in found if path.suffix.lower() == ".png"}
        if not self.images:
            raise BackdropError(f"{self.what} holds no PNG; put one for each video there, or {DEFAULT}.png")

    def image(self, *names: str) -> Path:
        """The image of a video by any of its names.

        Raises:
            BackdropError: the folder holds none, and no default one.
        """
        for name in (*names, DEFAULT):
            if nfc(name) in self.images:
                return self.images[nfc(name)]
        raise BackdropError(f"{self.what} holds no {show(names[0])}.png, and no {DEFAULT}.png")

    def of(self, source: Path) -> Path:
        """The image of a file's region, as `image`."""
        return self.image(source.stem, source.name)

    def region(self, source: Path) -> Mask:
        """The region of a file, (H, W) bool of any size, True inside.

        Raises:
            BackdropError: it is missing, or no region.
        """
        return decode_region(self.of(source))

    def digest(self, source: Path) -> str:
        """A hash of the image of a file's region; "" where it is missing."""
        try:
            return hashlib.sha256(self.of(source).read_bytes()).hexdigest()[:16]
        except (BackdropError, OSError):
            return ""


def with_regions(sequences: list[Sequence], roi: Path) -> list[Sequence]:
    """The sequences with their regions of interest (`data.roi`); one that has none has a fault.

    Images of `roi` that belong to no sequence are a warning: their names may be misspelt. What lies in that folder is
    no sequence, if it lies among the footage.

    Raises:
        BackdropError: see `RegionImages`; or `roi` lies among the frames.
    """
    regions = RegionImages(roi, "data.roi")
    if regions.one_for_all:
        _keep_apart(sequences, roi)
        return [replace(one, roi=roi) for one in sequences]
    found = []
    for one in sequences:
        if any(_lies_in(path, roi) for path in (*one.images, *([one.video] if one.video else []))):
            continue
        try:
            found.append(replace(one, roi=regions.image(*_image_names(one))))
        except BackdropError as fault:
            found.append(replace(one, fault=one.fault or str(fault)))
    used = {one.roi for one in found}
    unused = [path.name for path in regions.images.values() if path not in used and path.stem != DEFAULT]
    if unused:
        more = ", ..." if len(unused) > NAMED else ""
        warn(f"{regions.what}: {', '.join(map(show, unused[:NAMED]))}{more}: no video has this name")
    if not found:
        raise BackdropError(f"{regions.what} is all that the footage holds; keep it beside the footage")
    return found


class RegionSource:
    """The region of interest of one sequence.

    Raises:
        BackdropError: its image is none (see `decode_region`).
    """

    def __init__(self, sequence: Sequence) -> None:
        self.path = sequence.roi
        self._what = "" if self.path is None else f"region of interest {show(self.path)}"
        region = None if self.path is None else decode_region(self.path, self._what)
        self._whole = None if region is None or region.all() else region
        self._at = lru_cache(maxsize=8)(self._resized)

    def at(self, size: tuple[int, int]) -> Mask | None:
        """The region at size (width, height); None: the whole image.

        Raises:
            BackdropError: nothing of it is left at this size.
        """
        return None if self._whole is None else self._at(size)

    def check(self, size: tuple[int, int], frame: str) -> None:
        """Raise a BackdropError unless the image has the proportions of a frame of size (width, height)."""
        if self._whole is not None:
            fits_frame(self._whole, size, self._what, frame)

    def void(self, mask: Gray | None) -> Gray | None:
        """Ground truth of a frame, with what is outside not to be counted (`VOID`)."""
        region = None if mask is None else self.at((mask.shape[1], mask.shape[0]))
        return mask if mask is None or region is None else np.where(region, mask, np.uint8(VOID))

    def only(self, gray: Gray) -> Gray:
        """A gray picture of a frame in which nothing is to be seen outside."""
        region = self.at((gray.shape[1], gray.shape[0]))
        return gray if region is None else np.where(region, gray, np.uint8(gray[region].mean()))

    def png(self, size: tuple[int, int]) -> bytes | None:
        """The archive's entry for frames of size (width, height); None: none."""
        region = self.at(size)
        return None if region is None else encode_png(region.view(np.uint8) * 255)

    def _resized(self, size: tuple[int, int]) -> Mask:
        assert self._whole is not None
        region = resize_region(self._whole, size)
        if not region.any():
            raise BackdropError(f"{self._what}: nothing of it is left at {size[0]}x{size[1]} pixels")
        return region


def fits_frame(region: Mask, size: tuple[int, int], name: str, frame: str) -> None:
    """Raise a BackdropError unless a region has the proportions of a frame, to a pixel: it was drawn for another one.

    Args:
        size: (width, height) of the frame. name, frame: of both, for the message.
    """
    height, width = region.shape
    if abs(width * size[1] - height * size[0]) > max(width, height, *size):
        raise BackdropError(
            f"{name} is {width}x{height}, frame {frame} is {size[0]}x{size[1]}: give it the proportions of the frame"
        )


def _image_names(sequence: Sequence) -> list[str]:
    """The names by which an image may be a sequence's: as its file is called without the suffix first."""
    source = Path(sequence.source).name
    return list(dict.fromkeys([Path(source).stem if sequence.video else source, sequence.name, source]))


def _lies_in(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _keep_apart(sequences: list[Sequence], roi: Path) -> None:
    """Raise a BackdropError where the image for all videos would be a frame of one of them."""
    for one in sequences:
        if any(os.path.abspath(path) == os.path.abspath(roi) for path in one.images):
            raise BackdropError(f"data.roi {show(roi)} lies among the frames of {one.source}; put it elsewhere")
