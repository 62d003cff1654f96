"""Ground truth as data sets store it."""

from __future__ import annotations

import re
import zipfile

from backdrop.errors import BackdropError
from backdrop.frames.layouts.listing import Sequence
from backdrop.io.archives import ZIP_FAULTS
from backdrop.io.files import show
from backdrop.io.images import Gray
from backdrop.io.mask_images import decode_mask


class MaskSource:
    """Ground truth of one sequence by frame number in the source, from files or from one archive."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.entries: dict[int, str] = {}
        self.archive: zipfile.ZipFile | None = None
        if sequence.mask_archive is not None:
            try:
                self.archive = zipfile.ZipFile(sequence.mask_archive)
            except ZIP_FAULTS as fault:
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
            except ZIP_FAULTS as fault:
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
