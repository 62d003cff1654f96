"""The archives of `data/frames`: the frames of a sequence, their names and times, and ground truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveReader
from backdrop.io.files import is_file_name, show
from backdrop.io.images import RGB, Gray, decode_stored
from backdrop.io.masks import Mask

REGION = "region.png"
"""The entry of an archive that holds the region of interest (`data.roi`), where there is one."""

_FRAME_COLUMNS = ["frame", "name", "time_s", "has_mask"]


def frames_table(names: Sequence[str], times: Sequence[float], has_mask: Sequence[bool]) -> bytes:
    """The bytes of `frames.csv`: frame, name, time_s (seconds since the first frame of the source), has_mask."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FRAME_COLUMNS)
    for t, (name, time_s, mask) in enumerate(zip(names, times, has_mask, strict=True)):
        writer.writerow([t, name, f"{time_s:.6f}", int(mask)])
    return text.getvalue().encode()


class FrameArchive(ArchiveReader):
    """Random access to one sequence of `data/frames`.

    Attributes:
        path: the archive.
        names: the frames' names in the source: the file's stem, or the frame number in a video.
        times: (N,) seconds since the first frame of the source.
    """

    remedy = "run the stage frames again"
    remedy_missing = "run the stage frames first"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._size: tuple[int, int] | None = None
        table = self._read("frames.csv", "its table")
        try:
            rows = list(csv.DictReader(io.StringIO(table.decode(), newline="")))
            self.names = [row["name"] for row in rows]
            self.times = np.array([float(row["time_s"]) for row in rows], dtype=np.float64)
            self._has_mask = [bool(int(row["has_mask"])) for row in rows]
            if not all(is_file_name(name) for name in self.names):
                raise ValueError("a frame's name leads elsewhere")
        except (KeyError, TypeError, ValueError, csv.Error) as fault:
            raise BackdropError(f"{show(self.path)}: frames.csv is not ours; {self.remedy}") from fault

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the stored frames in pixels."""
        if self._size is None:
            height, width = self.image(0).shape[:2]
            self._size = (width, height)
        return self._size

    def image(self, t: int) -> RGB:
        """Frame t, 0 <= t < len, (H, W, 3) RGB."""
        self._check(t)
        image = decode_stored(self._read(f"images/{t:06d}.jpg", f"frame {t}"), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise self._damaged(f"frame {t}")
        return image  # type: ignore[return-value]

    @cached_property
    def region(self) -> Mask | None:
        """The region of interest at the size of the stored frames, True inside; None: the whole image."""
        if REGION not in self._entry_names():
            return None
        stored = decode_stored(self._read(REGION, "its region of interest"))
        if stored is None or stored.ndim != 2 or stored.dtype != np.uint8:
            raise self._damaged("its region of interest")
        return stored > 127

    def pictured(self) -> Sequence[int]:
        """The frames that `picture` has at hand, in order."""
        return range(len(self))

    def picture(self, t: int) -> RGB:
        """Frame t as people are to see it."""
        return self.image(t)

    def has_mask(self, t: int) -> bool:
        """Whether frame t has ground truth; without it nothing is known, which is not an empty mask."""
        self._check(t)
        return self._has_mask[t]

    def mask(self, t: int) -> Gray | None:
        """Ground truth of frame t at the truth's own size: 0 background, 255 foreground, 128 void; None without."""
        if not self.has_mask(t):
            return None
        mask = decode_stored(self._read(f"masks/{t:06d}.png", f"mask {t}"))
        if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
            raise self._damaged(f"mask {t}")
        return mask  # type: ignore[return-value]

    def _check(self, t: int) -> None:
        if not 0 <= t < len(self.names):
            raise IndexError(f"{show(self.path)} has frames 0 to {len(self.names) - 1}, not {t}")

    def _missing(self) -> BackdropError:
        return BackdropError(f"{show(self.path)} does not exist; {self.remedy_missing}")

    def _damaged(self, what: str) -> BackdropError:
        return BackdropError(f"{show(self.path)}: {what} is missing or damaged; {self.remedy}")


def frame_counts(frames_dir: Path | str, names: Iterable[str]) -> dict[str, int]:
    """Sequence -> how many frames are stored.

    Raises:
        BackdropError: an archive of frames is missing or damaged.
    """
    return {name: len(FrameArchive(Path(frames_dir) / f"{name}.zip")) for name in names}
