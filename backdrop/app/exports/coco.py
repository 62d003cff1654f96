"""Export coco: COCO's instances JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from backdrop.app.exports.common import CATEGORY, Recorded, components, file_name, write_json
from backdrop.app.records import SubjectRecord, encoded


def coco(found: Sequence[Recorded], split: bool = False) -> dict[str, Any]:
    """A COCO data set of all frames. Segmentations are compressed RLE; `track_id` is the subject's number.

    Args:
        split: one annotation per connected component, as CVAT wants it. Else one annotation per subject.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for source, records in found:
        for record in records.frames:
            number = len(images) + 1
            width, height = record.size
            images.append({"id": number, "file_name": file_name(source, record), "width": width, "height": height})
            for part in record.parts():
                for rle in map(encoded, components(part.decoded())) if split else [part.mask]:
                    annotations.append(_coco_annotation(len(annotations) + 1, number, part, rle))
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": CATEGORY}]}


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


def write_coco(found: Sequence[Recorded], folder: Path, split: bool = False) -> list[Path]:
    """Write <folder>/coco.json. split: see `coco`."""
    path = folder / "coco.json"
    write_json(path, coco(found, split))
    return [path]
