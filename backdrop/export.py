"""Masks carried into other tools: COCO, DAVIS, YOLO, Label Studio, overlay videos; all from records (see `predict`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pycocotools import mask as coco_mask

from backdrop.errors import BackdropError
from backdrop.masks import Mask
from backdrop.predict import COLORS, Part, Record, Records, drawn, encoded, read_records
from backdrop.sources import Source, frames_of
from backdrop.video import atomic_path, encode_video, probe, show

CATEGORY = "subject"
PALETTE = [0, 0, 0, *(value for i in range(255) for value in COLORS[i % len(COLORS)])]
"""Colors of a DAVIS annotation: background black, the first subject red, as in the data set."""
SIMPLIFY = 0.5
"""Pixels that a polygon may stray from the mask's outline."""

Export = Callable[[Path, Sequence[tuple[Source, Records]], Path], list[Path]]


def recorded(out: Path, names: Collection[str] | None = None) -> list[tuple[Source, Records]]:
    """The sources of a folder that `predict` wrote, with their records, by name.

    Args:
        names: of the sources that are wanted; None: all.

    Raises:
        BackdropError: no such folder, no records, or a source that is not segmented to its end.
    """
    folder = out / "records"
    paths = sorted(folder.rglob("*.jsonl"))
    if not paths:
        raise BackdropError(f"{show(folder)} holds no records; run `backdrop predict ... -o {show(out)}` first")
    found = []
    for path in paths:
        name = path.relative_to(folder).as_posix().removesuffix(".jsonl")
        if names is not None and name not in names:
            continue
        records = read_records(path)
        if records is None or not records.whole:
            raise BackdropError(f"{show(path)} is not whole; run the same `backdrop predict` again to finish it")
        found.append((Source(Path(records.header["source"]), name, bool(records.header["video"])), records))
    return found


def file_name(source: Source, record: Record) -> str:
    """How other tools call a frame: the image's file, or <video>/<frame>.jpg."""
    return f"{source.name}/{record.frame:06d}.jpg" if source.video else f"{source.name}{source.path.suffix}"


def coco(out: Path, found: Sequence[tuple[Source, Records]], split: bool = False) -> dict[str, Any]:
    """A COCO data set of all frames, segmentations as compressed RLE; `track_id`: the subject's number.

    Args:
        split: an annotation for each connected component, as CVAT wants it; else one a subject. Frames without
            foreground have none.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for source, records in found:
        for record in records.frames:
            number = len(images) + 1
            width, height = record.size
            images.append({"id": number, "file_name": file_name(source, record), "width": width, "height": height})
            for part in record.parts():
                for rle in map(encoded, _components(part.decoded())) if split else [part.mask]:
                    annotations.append(_annotation(len(annotations) + 1, number, part, rle))
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": CATEGORY}]}


def _annotation(number: int, image: int, part: Part, rle: dict[str, Any]) -> dict[str, Any]:
    binary = {**rle, "counts": rle["counts"].encode("ascii")}
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "track_id": part.number,
        "segmentation": rle,
        "area": int(coco_mask.area(binary)),
        "bbox": [float(value) for value in coco_mask.toBbox(binary)],
        "iscrowd": 0,
        "score": part.confidence,
    }


def _components(mask: Mask) -> Iterator[Mask]:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        yield labels == label


def write_coco(out: Path, found: Sequence[tuple[Source, Records]], folder: Path, split: bool = False) -> list[Path]:
    path = folder / "coco.json"
    _write_json(path, coco(out, found, split))
    return [path]


def write_davis(out: Path, found: Sequence[tuple[Source, Records]], folder: Path) -> list[Path]:
    """`davis`/Annotations/<sequence>/<frame>.png with a palette, values are the subjects' numbers; images of one folder
    are one sequence."""
    written = []
    for source, records in found:
        for record in records.frames:
            name = f"{source.name}/{record.frame:05d}.png" if source.video else f"{source.name}.png"
            path = folder / "davis" / "Annotations" / name
            picture = Image.fromarray(record.labels(), mode="P")
            picture.putpalette(PALETTE)
            with atomic_path(path) as temporary:
                picture.save(temporary, format="PNG")
            written.append(path)
    return written


def polygons(mask: Mask) -> list[np.ndarray]:
    """Outlines of the mask's components as (N, 2) pixel coordinates, 0 = the image's edge; holes are filled.

    A component of fewer than three corners has none.
    """
    # Outlines run through the centers of border pixels: on a mask four times as large, so close to the pixels' edges
    # that what is lost is an eighth of a pixel.
    large = cv2.resize(mask.astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    simple = (cv2.approxPolyDP(contour, 4 * SIMPLIFY, True)[:, 0] for contour in contours)
    return [(points + 0.5) / 4 for points in simple if len(points) >= 3]


def write_yolo(out: Path, found: Sequence[tuple[Source, Records]], folder: Path) -> list[Path]:
    """`yolo`/labels/<image>.txt: a line an outline, "0 x1 y1 x2 y2 ..." in shares of the image; empty: no subject.

    Where subjects were told apart, `yolo`/numbers/<image>.txt has the number of the subject of each line.
    """
    written = []
    for source, records in found:
        for record in records.frames:
            lines, numbers = [], []
            for part in record.parts():
                for points in polygons(part.decoded()):
                    shares = (points / np.array(record.size)).clip(0, 1).ravel()
                    lines.append(" ".join(["0", *(f"{value:.6f}" for value in shares)]) + "\n")
                    numbers.append(f"{part.number}\n")
            rows = {"labels": lines} if record.instances is None else {"labels": lines, "numbers": numbers}
            for kind, text in rows.items():
                path = (folder / "yolo" / kind / file_name(source, record)).with_suffix(".txt")
                with atomic_path(path) as temporary:
                    temporary.write_text("".join(text), encoding="ascii")
                written.append(path)
    return written


# Label Studio -----------------------------------------------------------------------------------------

_RUN_BITS = (3, 4, 8, 16)
"""Widths of a run's length, from which each run chooses the smallest that holds it."""


def brush_rle(mask: Mask) -> list[int]:
    """A mask as Label Studio's brush holds it: run lengths of its RGBA bytes, as a list of bytes.

    A bit stream: 32 bits number of values; 5 bits, bits of a value less one; four times 4 bits, widths of run lengths
    less one; then blocks: a bit (1: one value repeated), 2 bits (which width), the length less one, the value.
    """
    values = np.repeat(mask.astype(np.uint8).ravel() * np.uint8(255), 4)
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] ^ 1))
    lengths = np.diff(np.append(starts, len(values)))
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{width - 1:04b}" for width in _RUN_BITS)]
    for length, value in zip(lengths.tolist(), values[starts].tolist(), strict=True):
        while length:
            run = min(length, 1 << _RUN_BITS[-1])
            which = next(i for i, width in enumerate(_RUN_BITS) if run <= 1 << width)
            bits.append(f"1{which:02b}{run - 1:0{_RUN_BITS[which]}b}{value:08b}")
            length -= run
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return [int(stream[i : i + 8], 2) for i in range(0, len(stream), 8)]


def _brush(name: str, size: tuple[int, int], part: Part) -> dict[str, Any]:
    return {
        "id": name,
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "meta": {"text": [f"{CATEGORY} {part.number}"]},
        "value": {"format": "rle", "rle": brush_rle(part.decoded()), "brushlabels": [CATEGORY]},
    }


def write_labelstudio(out: Path, found: Sequence[tuple[Source, Records]], folder: Path) -> list[Path]:
    """`labelstudio.json`: tasks with brush predictions, for a project with <BrushLabels name="tag" toName="image">.

    A region for each subject, its number in the region's notes.
    """
    tasks: list[dict[str, Any]] = []
    for source, records in found:
        for record in records.frames:
            results = [_brush(f"{len(tasks)}-{part.number}", record.size, part) for part in record.parts()]
            prediction = {"model_version": "backdrop", "score": record.confidence, "result": results}
            tasks.append({"data": {"image": file_name(source, record)}, "predictions": [prediction]})
    path = folder / "labelstudio.json"
    _write_json(path, tasks)
    return [path]


# Video ------------------------------------------------------------------------------------------------


def write_video(out: Path, found: Sequence[tuple[Source, Records]], folder: Path) -> list[Path]:
    """`video`/<name>.mp4: each video with its masks drawn in; images are left out.

    Raises:
        BackdropError: there is no video among the sources, or one is no longer where it was.
    """
    videos = [(source, records) for source, records in found if source.video]
    if not videos:
        raise BackdropError("format video is for videos; for images take overlay")
    written = []
    for source, records in videos:
        path = folder / "video" / f"{source.name}.mp4"
        every = int(records.header["every"])
        encode_video(path, _drawn(source, records, every), probe(source.path).fps / every, quality=80)
        written.append(path)
    return written


def _drawn(source: Source, records: Records, every: int) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    masks = {record.frame: record for record in records.frames}
    for frame in frames_of(source, every):
        if frame.number in masks:
            picture = drawn(frame.image, masks[frame.number])
            yield picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]  # what h264 can hold


def _write_json(path: Path, content: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


FORMATS: dict[str, Export] = {
    "coco": write_coco,
    "davis": write_davis,
    "yolo": write_yolo,
    "labelstudio": write_labelstudio,
    "video": write_video,
}
"""Format -> what writes it: (folder of records, what `recorded` found there, where to) -> files."""
