"""What the exports share: sources with their records, file names, parts, and that a bad source costs itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from backdrop.app.reader import frames_of
from backdrop.app.records import LIVE, VERSION, Ending, Record, Records, encoded, is_changed, read_records
from backdrop.app.sources import Source, costing_itself
from backdrop.doubts import Doubt, doubts
from backdrop.errors import BackdropError, WriteError
from backdrop.io.files import atomic_path, show
from backdrop.io.images import RGB
from backdrop.io.masks import Mask

CATEGORY = "subject"
"""The one class of objects, as other tools name it."""

SMALLEST_SHARE = 1e-4
"""Parts of a mask below this share of the frame are specks, where no smallest area is asked for."""

Recorded = tuple[Source, Records]
"""A source with its records."""

Faults = list[BackdropError]
"""Takes the faults of sources that are left out. Where None stands in its place, the first fault is raised."""

Files = Iterator[tuple[Path, Callable[[Path], object]]]
"""Files, each with what writes it."""

Made = TypeVar("Made")


class ExportChoices(NamedTuple):
    """What a user chooses of the formats.

    min_area: parts of a mask below so many pixels are left out. None: below `SMALLEST_SHARE` of the frame.
    images: coco, yolo, labelstudio: write the frames, too.
    split: coco: one annotation per connected part.
    url_prefix: labelstudio, labelstudio-video: what stands before the name of an image or a video.
    background: of what is written as background: a color, or the path of an image.
    webm: alpha: VP9 in a .webm instead of ProRes 4444 in a .mov.
    steady: boxes and numbers of a video's subjects are steadied (`tracks.steadied`).
    """

    min_area: int | None = None
    images: bool = False
    split: bool = False
    url_prefix: str = ""
    background: str = "white"
    webm: bool = False
    steady: bool = False


DEFAULTS = ExportChoices()
"""What is chosen where nobody chooses."""


@runtime_checkable
class Export(Protocol):
    """Writes the masks of all frames into a folder, and returns the files. See `recorded` for the first argument."""

    def __call__(
        self, found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
    ) -> list[Path]: ...


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
    if not records.complete and records.header.get(LIVE):  # it was killed, and there is no going on
        last = records.frames[-1].time if records.frames else 0.0
        records = records._replace(complete=True, ending=Ending(last, "the command was killed while it was read"))
    if not records.complete and not records.frames:
        raise BackdropError(
            f"{show(header['source'])} is not segmented ({show(path)} is not complete); run the same "
            "`backdrop predict` again; if that says that the file cannot be read, mend it, or remove both"
        )
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


def without_specks(found: Sequence[Recorded], min_area: int | None = None) -> list[Recorded]:
    """The same, where masks and subjects lack their smallest connected parts; see `ExportChoices`."""
    return [
        (source, records._replace(frames=[_swept(record, min_area) for record in records.frames]))
        for source, records in found
    ]


def _swept(record: Record, min_area: int | None) -> Record:
    least = SMALLEST_SHARE * record.size[0] * record.size[1] if min_area is None else min_area
    mask = record.decoded()
    left = _large_parts(mask, least)
    parts = record.instances
    if parts is not None:
        masks = [(part, part.decoded()) for part in parts]
        kept = [(part, own, _large_parts(own, least)) for part, own in masks]
        for _, own, large in kept:
            left &= large | ~own
        parts = tuple(
            part if (large == own).all() else part._replace(mask=encoded(large))
            for part, own, large in kept
            if large.any()
        )
    if (left == mask).all() and parts == record.instances:
        return record
    return record._replace(mask=encoded(left), instances=parts)


def _large_parts(mask: Mask, least: float) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    return large[labels]


def doubts_of(records: Records) -> list[tuple[Doubt, ...]]:
    """Why to look at each frame, in their order (`backdrop.doubts`)."""
    rles = [{**record.mask, "counts": record.mask["counts"].encode("ascii")} for record in records.frames]
    areas = [float(coco_mask.area(rle)) / (rle["size"][0] * rle["size"][1]) for rle in rles]
    overlaps = [_with_last(before, rle) for before, rle in zip([None, *rles], rles, strict=False)]
    return doubts(areas, overlaps, [record.sure for record in records.frames])


def _with_last(before: dict[str, Any] | None, rle: dict[str, Any]) -> float | None:
    """J of two masks; None: there is no first one, or they are of different sizes."""
    if before is None or before["size"] != rle["size"]:
        return None
    return float(coco_mask.iou([before], [rle], [0])[0][0])


def check_kept(source: Source, records: Records) -> None:
    """Make sure that there is a file from which frames can be read again.

    Raises:
        BackdropError: the source was live.
    """
    if records.header.get(LIVE):
        raise BackdropError(
            f"{show(source.path)} was read as it came, and its frames were not kept: this format needs them; "
            "`backdrop predict` writes masks, overlay and video of such a source"
        )


def frames_with_records(source: Source, records: Records) -> Iterator[tuple[RGB, Record]]:
    """Each segmented frame, upright, with its record.

    Raises:
        BackdropError: the file is no longer what was segmented, or cannot be read.
    """
    check_kept(source, records)
    if is_changed(records):
        raise BackdropError(f"{show(source.path)} has changed since; run the same `backdrop predict` again")
    frames = frames_of(source, int(records.header["every"]))
    for record in records.frames:
        frame = next((frame for frame in frames if frame.number == record.frame), None)
        if frame is None:
            raise BackdropError(
                f"{show(source.path)} is not the video that was segmented; run the same `backdrop predict` again"
            )
        yield frame.image, record


def file_name(source: Source, record: Record) -> str:
    """The name of a frame in other tools: the image's path below the input, or <video>/frame_<number>.jpg."""
    if source.video:
        return f"{label_name(source, record)}.jpg"
    return source.file or f"{source.name}{source.path.suffix}"


def label_name(source: Source, record: Record) -> str:
    """The same without suffix, and unique without it: of a file beside the image."""
    return f"{source.name}/frame_{record.frame:06d}" if source.video else source.name


def components(mask: Mask) -> Iterator[Mask]:
    """The connected parts of a mask, (H, W) bool each. Pixels that touch at a corner are connected."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        yield labels == label


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, all of it or nothing.

    Raises:
        WriteError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file. Raises as `write_text`."""
    write_text(path, json.dumps(content))
