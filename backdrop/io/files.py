"""Files: written atomically, named in messages, recognized by their suffixes."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backdrop.errors import UNWRITABLE, WriteError


def show(path: Path | str) -> str:
    """A path for a message or a table: one line of valid Unicode, whatever bytes the file is named by."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_file_name(text: str) -> bool:
    """Whether a name from a table is that of a file in the very folder it is put into."""
    return text not in ("", ".", "..") and not {"/", "\0"} & set(text)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """In the block, a write that the system refuses becomes an error that names `path`; the system's own does not.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as fault:
        if fault.errno not in UNWRITABLE:
            raise
        raise WriteError(
            f"cannot write {show(path)}: {fault.strerror}; {UNWRITABLE[fault.errno]} or choose another folder, "
            "and run the same command again"
        ) from fault


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    The temporary name is hidden and keeps the suffix, from which writers take the format.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # mkstemp's files are private; an output is as readable as any other
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends well, and vanishes when it does not.

    Its name is always the same, so that the next run removes what a killed process left.

    Raises:
        WriteError: it cannot be written, or the disk is full.
    """
    folder = Path(folder)
    part = folder.with_name(folder.name + ".part")
    try:
        with writing(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def parts_folder(out_dir: Path) -> Iterator[Path]:
    """An empty hidden folder inside `out_dir`, removed at the end; those that killed runs left are removed first.

    If `out_dir` did not exist and is still empty at the end, it is removed, too. Each run's folder has a new name: a
    process that outlives its killed run must not write into the folder of the next.

    Raises:
        WriteError: the folder cannot be written.
    """
    made = not out_dir.exists()
    with writing(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        for left in out_dir.glob(".parts-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=".parts-", dir=out_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            with suppress(OSError):  # there is something in it
                out_dir.rmdir()


@contextmanager
def kept_folder(work: Path, key: str, kinds: Iterable[str]) -> Iterator[Path]:
    """The folder `work`/`key`, with a folder for each of `kinds`: removed when the block ends well, else kept for a run
    with the same key. Those of other keys of the same name before the last dash are removed.

    Raises:
        WriteError: it cannot be made.
    """
    folder = work / key
    with writing(folder):
        for other in work.glob(f"{glob.escape(key.rpartition('-')[0])}-*/"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        for kind in kinds:
            (folder / kind).mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def sweep(path: Path | str) -> None:
    """Remove what a killed process left of `atomic_path(path)`; no other process may be writing it.

    For files whose folder is not itself an output of the pipeline: DVC empties such a folder before each run.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.stem[:40])}.{_RANDOM}{glob.escape(path.suffix)}"):
        left.unlink(missing_ok=True)


def sweep_below(folder: Path | str) -> None:
    """`sweep` for all files that are or were to be in a folder, at any depth."""
    for left in Path(folder).rglob(f".*.{_RANDOM}.*"):
        left.unlink(missing_ok=True)


_RANDOM = "[a-z0-9_]" * 8
"""What mkstemp puts into names."""


def one_line(fault: BaseException) -> str:
    """An exception as one line."""
    return " ".join(str(fault).split()) or type(fault).__name__


def libav_url(path: Path) -> str:
    """The path as a URL of libav's file protocol, so that a colon, a % or a leading - has no special meaning."""
    return "file:" + os.path.abspath(path)


def copy_files(source: Path, target: Path) -> None:
    """Copy all files of a folder into another, each atomically."""
    for file in sorted(source.iterdir()):
        with atomic_path(target / file.name) as temporary:
            shutil.copyfile(file, temporary)


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".3gp", ".ogv", ".ts", ".mts", ".m2ts"),
)

ACCEPTED = f"videos ({' '.join(VIDEO_SUFFIXES)}) or images ({' '.join(IMAGE_SUFFIXES)})"
