"""What the exports share: sources with their records, file names, components, and that a bad source costs itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np

from backdrop.app.records import VERSION, Record, Records, read_records
from backdrop.app.sources import Source, costing_itself
from backdrop.errors import BackdropError, WriteError
from backdrop.io.files import atomic_path, show
from backdrop.io.masks import Mask

CATEGORY = "subject"
"""The one class of objects, as other tools name it."""

Recorded = tuple[Source, Records]
"""A source with its records."""

Faults = list[BackdropError]
"""Takes the faults of sources that are left out. Where None stands in its place, the first fault is raised."""

Files = Iterator[tuple[Path, Callable[[Path], object]]]
"""Files, each with what writes it."""

Made = TypeVar("Made")


@runtime_checkable
class Export(Protocol):
    """Writes the masks of all frames into a folder, and returns the files. See `recorded` for the first argument."""

    def __call__(self, found: Sequence[Recorded], folder: Path, *, faults: Faults | None = None) -> list[Path]: ...


def recorded(out: Path, names: Collection[str] | None = None, faults: Faults | None = None) -> list[Recorded]:
    """The sources of a folder that `predict` wrote, with their records, by name.

    Args:
        names: of the sources that are wanted. None: all.

    Raises:
        BackdropError: no such folder, no records, or, without `faults`, a source that is not segmented to its end.
    """
    folder = out / "records"
    paths = [path for path in sorted(folder.rglob("*.jsonl")) if path.is_file()]
    if not paths:
        raise BackdropError(f"{show(folder)} holds no records; run `backdrop predict ... -o {show(out)}` first")
    wanted = [(path, path.relative_to(folder).as_posix().removesuffix(".jsonl")) for path in paths]
    sources = [(Source(path, name, False), path) for path, name in wanted if names is None or name in names]
    return list(_each(sources, faults, lambda source, path: _read(path, source.name)))


def _read(path: Path, name: str) -> Recorded:
    records = read_records(path)
    header = {} if records is None else records.header
    if records is None or header.get("version") != VERSION:
        raise BackdropError(f"{show(path)} is damaged or of another version; run the same `backdrop predict` again")
    if not records.complete:
        raise BackdropError(
            f"{show(header['source'])} is not segmented to its end ({show(path)} is not complete); run the same "
            "`backdrop predict` again"
        )
    return Source(Path(header["source"]), name, bool(header["video"]), header["file"]), records


def each_source(
    found: Sequence[Recorded], faults: Faults | None, work: Callable[[Source, Records], Made]
) -> Iterator[Made]:
    """What `work` gives for each source. One for which it fails is left out, and its fault added to `faults`.

    Raises:
        WriteError: the folder cannot be written.
        BackdropError: without `faults`, of the first source that fails.
    """
    return _each(found, faults, work)


def _each(
    pairs: Sequence[tuple[Source, Any]], faults: Faults | None, work: Callable[[Source, Any], Made]
) -> Iterator[Made]:
    for source, content in pairs:
        try:
            with costing_itself(source):
                result = work(source, content)
        except BackdropError as fault:
            if faults is None or isinstance(fault, WriteError):
                raise
            named = show(source.path) in str(fault)
            faults.append(fault if named else BackdropError(f"{show(source.path)}: {fault}"))
        else:
            yield result


def write_each(
    found: Sequence[Recorded], faults: Faults | None, files: Callable[[Source, Records], Files]
) -> list[Path]:
    """Write the files of all sources, and return them. Of a source that fails none stays. Raises as `each_source`."""

    def write_all(source: Source, records: Records) -> list[Path]:
        written: list[Path] = []
        try:
            for path, write in files(source, records):
                with atomic_path(path) as temporary:
                    write(temporary)
                written.append(path)
        except WriteError:
            raise
        except (BackdropError, OSError):
            for path in written:
                path.unlink(missing_ok=True)
            raise
        return written

    return [path for written in each_source(found, faults, write_all) for path in written]


def file_name(source: Source, record: Record) -> str:
    """The name of a frame in other tools: the image's path below the input, or <video>/<frame>.jpg."""
    if source.video:
        return f"{source.name}/{record.frame:06d}.jpg"
    return source.file or f"{source.name}{source.path.suffix}"


def label_name(source: Source, record: Record) -> str:
    """The same without suffix, and unique without it: of a file beside the image."""
    return f"{source.name}/{record.frame:06d}" if source.video else source.name


def components(mask: Mask) -> Iterator[Mask]:
    """The connected parts of a mask, (H, W) bool each. Pixels that touch at a corner are connected."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        yield labels == label


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, all of it or nothing.

    Raises:
        WriteError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
