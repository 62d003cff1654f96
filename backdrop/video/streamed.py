"""Frames that are not stored: an archive of names and times, whose frames are read from the footage itself.

The stage frames writes such an archive for each video where `data.budget` draws the frames to train on. It holds
`frames.csv`, ground truth, a few frames for people to look at, and `source.json`: where the footage lies, and a hash.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveReader
from backdrop.io.files import show
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import RGB, decode_image, resize
from backdrop.video.decode import decode_lazily
from backdrop.video.decoded import Decoded

SOURCE = "source.json"

AGAIN = "run the stage frames again (`dvc repro` and `backdrop train` do)"


def source_entry(video: Path | None, images: Sequence[Path], every: int, size: tuple[int, int]) -> bytes:
    """The bytes of `source.json`.

    Args:
        video: the video file, or None. images: the files of a folder of images.
        every: frames are every n-th of the source.
        size: (width, height) that frames are brought to.
    """
    files = [video] if video is not None else list(images)
    facts = {
        "video": video is not None,
        "files": [str(path) for path in files],
        "every": every,
        "size": list(size),
        "bytes": total_bytes(files),
        "sha256": _content(files),
    }
    return json.dumps(facts).encode()


class StreamedFrames(FrameArchive):
    """One sequence whose frames are decoded as they are asked for, best in their order.

    A frame before the last one that was asked for makes a video be decoded from its beginning anew. Frames that were
    passed over are decoded, but their colors are not converted.

    Args:
        path: the archive.
        keep: so many of the last frames stay in memory, to be asked for again.
        threads: for decoding.
    """

    _reading: ClassVar[StreamedFrames | None] = None

    def __init__(self, path: Path | str, keep: int = 1, threads: int = 1) -> None:
        super().__init__(path)
        self._keep, self._threads = keep, threads
        try:
            facts: dict[str, Any] = json.loads(self._read(SOURCE, "its source"))
            self.files = [Path(name) for name in facts["files"]]
            self._is_video, self._every = bool(facts["video"]), int(facts["every"])
            self._bytes, self._sha256 = int(facts["bytes"]), str(facts["sha256"])
            self._stored_size = (int(facts["size"][0]), int(facts["size"][1]))
            self._numbers = [int(name) if self._is_video else t * self._every for t, name in enumerate(self.names)]
        except (ValueError, KeyError, TypeError, IndexError) as fault:
            raise self._damaged("its source") from fault
        self._shown = sorted(int(n[7:-4]) for n in self._entry_names() if n.startswith("images/"))
        self._decoded: Iterator[tuple[int, float, Decoded]] | None = None
        self._last = -1  # number in the source of the frame that was decoded last
        self._recent: OrderedDict[int, RGB] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_decoded": None, "_last": -1, "_recent": OrderedDict()}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self._stored_size

    def image(self, t: int) -> RGB:
        """Frame t, 0 <= t < len, (H, W, 3) RGB, read from the footage.

        Raises:
            BackdropError: the footage is gone, or is not what the stage frames has read.
        """
        self._check(t)
        if t in self._recent:
            return self._recent[t]
        self._alone()
        image = self._video_frame(self._numbers[t]) if self._is_video else self._file(self._numbers[t])
        image = resize(image, self._stored_size)
        self._recent[t] = image
        while len(self._recent) > self._keep:
            self._recent.popitem(last=False)
        return image

    def pictured(self) -> Sequence[int]:
        """The frames that are stored for people to look at, spread over the video."""
        return self._shown

    def picture(self, t: int) -> RGB:
        """As `FrameArchive.picture`: from the archive where it is stored, else from the footage."""
        return FrameArchive.image(self, t) if t in self._shown else self.image(t)

    def check(self) -> None:
        """Make sure that the footage is what the stage frames has read, by its content.

        Raises:
            BackdropError: it is gone, or has changed.
        """
        self._check_bytes()
        try:
            content = _content(self.files)
        except OSError as fault:
            raise self._gone(fault) from fault
        if content != self._sha256:
            raise self._changed()

    def _alone(self) -> None:
        """Let go of what another sequence holds in memory: processes keep archives open that they have done with."""
        other, StreamedFrames._reading = StreamedFrames._reading, self
        if other is not None and other is not self:
            other._decoded = None
            other._recent.clear()

    def _file(self, number: int) -> RGB:
        if not 0 <= number < len(self.files):
            raise self._damaged("its source")
        if not self.files[number].is_file():
            raise self._gone()
        return decode_image(self.files[number])

    def _video_frame(self, number: int) -> RGB:
        if self._decoded is None or number <= self._last:
            self._check_bytes()
            self._decoded = decode_lazily(self.files[0], self._every, self._threads)
        for at, _, picture in self._decoded:
            self._last = at
            if at == number:
                return picture.rgb()
            if at > number:
                break
        self._decoded = None
        raise self._changed()

    def _check_bytes(self) -> None:
        """A quick look before the footage is opened: a file that was cut off or still grows has another size."""
        try:
            found = total_bytes(self.files)
        except OSError as fault:
            raise self._gone(fault) from fault
        if found != self._bytes:
            raise self._changed()

    def _gone(self, fault: OSError | None = None) -> BackdropError:
        missing = next((path for path in self.files if not path.is_file()), None)
        why = "is not there any more" if missing else f"cannot be read ({fault.strerror if fault else ''})"
        return BackdropError(
            f"{show(missing or self.files[0])} {why}, and {show(self.path)} holds no copy of its frames: put it "
            "back, or set data.root to where it is now, and run the same command again"
        )

    def _changed(self) -> BackdropError:
        where = self.files[0] if self._is_video else self.files[0].parent
        return BackdropError(f"{show(where)} is not what it was when the stage frames read it: {AGAIN}")


class _Entries(ArchiveReader):
    """What an archive holds, with the words of `FrameArchive` for one that is missing or damaged."""

    remedy, remedy_missing = FrameArchive.remedy, FrameArchive.remedy_missing

    def streamed(self) -> bool:
        return SOURCE in self._entry_names()


def open_frames(path: Path | str, keep: int = 1, threads: int = 1) -> FrameArchive:
    """The frames of a sequence, stored or streamed from the footage. For `keep` and `threads` see `StreamedFrames`.

    Raises:
        BackdropError: the archive is missing or damaged.
    """
    return StreamedFrames(path, keep, threads) if _Entries(path).streamed() else FrameArchive(path)


def check_frames(path: Path | str) -> None:
    """Make sure that the frames of a sequence can be read, if they are not stored (`StreamedFrames.check`).

    Raises:
        BackdropError: its footage is gone, or has changed; or the archive is missing or damaged.
    """
    frames = open_frames(path)
    if isinstance(frames, StreamedFrames):
        frames.check()


def total_bytes(files: Sequence[Path]) -> int:
    """Of all files.

    Raises:
        OSError: one is gone.
    """
    return sum(path.stat().st_size for path in files)


def _content(files: Sequence[Path]) -> str:
    """A hash of the contents of all files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
