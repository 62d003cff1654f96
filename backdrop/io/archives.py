"""Archives: one stored (uncompressed) zip for each sequence, written atomically and read at random."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path, one_line, show, writing

# what zipfile raises on damaged bytes, depending on which byte it is
ZIP_FAULTS = (OSError, KeyError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile)


class ArchiveWriter:
    """Writes one stored (uncompressed) zip; the same entries give the same bytes.

    Use as a context manager: the archive appears under its name when the block ends well,
    and nothing is left when it does not.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __enter__(self) -> ArchiveWriter:
        with ExitStack() as stack:
            target = stack.enter_context(self._target())
            self._zip = stack.enter_context(zipfile.ZipFile(target, "w", zipfile.ZIP_STORED))
            self._stack = stack.pop_all()
        return self

    def _target(self) -> AbstractContextManager[Path]:
        return atomic_path(self.path)

    def add(self, name: str, data: bytes) -> None:
        """Add one entry, under a fixed date so that bytes depend on content only."""
        entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        entry.create_system, entry.external_attr = 3, 0o644 << 16
        self._zip.writestr(entry, data)

    def join(self, part: Path) -> None:
        """Add the entries of another archive in their order, one held at a time, and remove it.

        Raises:
            BackdropError: it is missing or damaged.
        """
        for name, data in archive_entries(part):
            self.add(name, data)
        part.unlink()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, fault, trace)


class PartWriter(ArchiveWriter):
    """Writes a part of an archive, for `ArchiveWriter.join`. A part that is there is complete.

    Its folder is not created: a process that outlives its killed run would bring it back.

    Args:
        part: the file.
        path: the archive that it is a part of, which a full disk's error names.
    """

    def __init__(self, part: Path, path: Path) -> None:
        super().__init__(path)
        self.part = part

    @contextmanager
    def _target(self) -> Iterator[Path]:
        unfinished = self.part.with_name(f".{self.part.name}.{os.getpid()}")
        try:
            with writing(self.path):
                yield unfinished
                unfinished.replace(self.part)
        finally:
            unfinished.unlink(missing_ok=True)


class ArchiveReader:
    """Random access to the entries of one archive; the base of the archives of frames, masks and flow.

    It can be pickled, and opens its file anew in each process: two processes that share a file handle after a fork
    would move each other's position.

    Attributes:
        path: the archive.
        remedy, remedy_missing: what a person does about one that is damaged, or not there; of each kind of archive.
    """

    remedy = "run the same command again"
    remedy_missing = remedy

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._process = -1  # that opened `_zip`

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_process": -1}

    def _entry_names(self) -> frozenset[str]:
        """The names of all entries.

        Raises:
            BackdropError: the archive is missing, or not an archive.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                return frozenset(archive.namelist())
        except FileNotFoundError as fault:
            raise self._missing() from fault
        except ZIP_FAULTS as fault:
            raise BackdropError(f"{show(self.path)} is no archive ({fault}): {self.remedy}") from fault

    def _stored(self, name: str) -> bytes:
        """The bytes of an entry. What is missing or damaged raises one of `ZIP_FAULTS`."""
        if self._zip is None or self._process != os.getpid():
            self._zip, self._process = zipfile.ZipFile(self.path), os.getpid()
        return self._zip.read(name)  # checks the entry's CRC

    def _read(self, name: str, what: str | None = None) -> bytes:
        """The bytes of an entry, which messages call `what`, or by its name.

        Raises:
            BackdropError: the archive is missing, or the entry missing or damaged.
        """
        try:
            return self._stored(name)
        except FileNotFoundError as fault:
            raise self._missing() from fault
        except ZIP_FAULTS as fault:
            raise self._damaged(what or name) from fault

    def _missing(self) -> BackdropError:
        return BackdropError(f"{show(self.path)} does not exist: {self.remedy_missing}")

    def _damaged(self, what: str) -> BackdropError:
        return BackdropError(f"{show(self.path)}: {what} is missing or damaged: {self.remedy}")


def archive_entries(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an archive, in the order in which they were written."""
    try:
        with zipfile.ZipFile(archive) as stored:
            for name in stored.namelist():
                yield name, stored.read(name)  # checks the entry's CRC
    except ZIP_FAULTS as fault:
        raise BackdropError(
            f"{show(archive)} is missing or damaged ({one_line(fault)}); run the same command again"
        ) from fault
