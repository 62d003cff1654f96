"""Labels in COCO's instances JSON: masks as polygons and RLE, boxes where there is no mask.

An image without annotations says nothing: tools list what nobody has looked at, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from backdrop.io.run_lengths import mask_of_runs, run_lengths
from backdrop.student.labels.label import Complaints, Label, box_sides, class_kind

UNIT_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 72, False)), np.sin(np.linspace(0, 2 * np.pi, 72, False))], 1)
"""Corners of a circle of radius 1, as a polygon."""


def coco_labels(content: Mapping[str, Any], file: str, complaints: Complaints) -> Iterator[Label]:
    """The labels of a file; what cannot be read of it goes to `complaints`."""
    images = {one.get("id"): one for one in content["images"] if isinstance(one, dict)}
    classes = {one.get("id"): one.get("name") for one in content.get("categories") or () if isinstance(one, dict)}
    for one in content.get("annotations") or ():
        try:
            image = images[one["image_id"]]
            name, size = str(image["file_name"]), (int(image["width"]), int(image["height"]))
            drawn = one.get("segmentation")
            kind = class_kind(classes.get(one.get("category_id")), "mask" if drawn else "box")
            if kind == "nothing":
                yield Label(file, name, "nothing", None, size)
            elif kind == "mask":
                yield Label(file, name, kind, _shape(drawn, size), size)
            elif kind == "box":
                yield Label(file, name, kind, box_sides(*one["bbox"]), size)
            else:
                complaints.add(file, "a shape of background, where only points can say that", name)
        except (KeyError, TypeError, ValueError, AttributeError):
            number = one.get("id") if isinstance(one, dict) else one
            complaints.add(
                file, "annotations that are damaged, or of an image that is not listed", f"annotation {number}"
            )


def _shape(drawn: Any, size: tuple[int, int]) -> Callable[[], np.ndarray]:
    if isinstance(drawn, list):
        return partial(polygon_mask, [np.reshape(np.asarray(one, np.float64), (-1, 2)) for one in drawn], size)
    stated = (int(drawn["size"][1]), int(drawn["size"][0]))
    counts = drawn["counts"]
    return partial(_runs_mask, counts, stated)


def _runs_mask(counts: Any, size: tuple[int, int]) -> np.ndarray:
    runs = run_lengths(counts) if isinstance(counts, str) else [int(count) for count in counts]
    return mask_of_runs(runs, size).astype(np.uint8) * 255


def polygon_mask(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8, 255 inside any of the polygons, whose corners are (x, y) in pixels from the image's corner."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    for ring in rings:
        if len(ring) < 3 or not np.isfinite(ring).all():
            raise ValueError("a polygon of fewer than three corners")
        corners = np.clip(ring, np.negative(size), 2 * np.array(size))  # it walks along the sides, however long
        mask |= coco_mask.decode(coco_mask.frPyObjects([corners.ravel().tolist()], size[1], size[0]))[..., 0]
    return mask * np.uint8(255)
