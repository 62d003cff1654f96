"""Export coco: COCO's instances JSON."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from backdrop.app.exports.common import (
    CATEGORY,
    DEFAULTS,
    ExportChoices,
    Faults,
    Recorded,
    components,
    doubts_of,
    each_source,
    file_name,
    write_json,
)
from backdrop.app.exports.images import write_images
from backdrop.app.records import Records, SubjectRecord, encoded
from backdrop.app.sources import Source

Annotated = tuple[SubjectRecord, dict[str, Any]]
"""A subject, and the RLE of all or of a component of it."""


def coco(found: Sequence[Recorded], split: bool = False, faults: Faults | None = None) -> dict[str, Any]:
    """A COCO data set of all frames. Segmentations are compressed RLE; `track_id` is the subject's number.

    Args:
        split: one annotation per connected component, as CVAT wants it. Else one annotation per subject.
        faults: see `each_source`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for frames in each_source(found, faults, partial(_frames, split)):
        for image, parts in frames:
            images.append({"id": len(images) + 1, **image})
            annotations += [
                _coco_annotation(len(annotations) + i, len(images), *part) for i, part in enumerate(parts, 1)
            ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": CATEGORY}]}


def _frames(split: bool, source: Source, records: Records) -> list[tuple[dict[str, Any], list[Annotated]]]:
    """Each frame's name and size, and its subjects with their RLE."""
    frames = []
    for record, why in zip(records.frames, doubts_of(records), strict=True):
        width, height = record.size
        image = {"file_name": file_name(source, record), "width": width, "height": height}
        image |= {"sure": record.sure, "doubts": list(why)}
        rles = [map(encoded, components(part.decoded())) if split else [part.mask] for part in record.parts()]
        parts = [(part, rle) for part, own in zip(record.parts(), rles, strict=True) for rle in own]
        frames.append((image, parts))
    return frames


def _coco_annotation(number: int, image: int, part: SubjectRecord, rle: dict[str, Any]) -> dict[str, Any]:
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


def write_coco(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/coco.json. With images, the folder <folder>/coco/, as CVAT and datumaro open it.

    That holds annotations/instances_default.json and images/<file name>.
    """
    path = folder / "coco.json"
    images: list[Path] = []
    if choices.images:
        path = folder / "coco" / "annotations" / "instances_default.json"
        found, images = write_images(found, folder / "coco" / "images", file_name, faults)
    write_json(path, coco(found, choices.split, faults))
    return [path, *images]
