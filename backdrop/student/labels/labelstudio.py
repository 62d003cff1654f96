"""Labels in Label Studio's JSON: brush masks, polygons, ellipses, boxes, points, choices, boxes on a video's timeline.

Of a task that people worked on, what they submitted counts, and predictions do not. A task that was only written for
Label Studio, as `backdrop predict` does, has predictions alone, and these count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from backdrop.student.labels.coco import UNIT_CIRCLE, polygon_mask
from backdrop.student.labels.label import (
    BACKGROUND_NAMES,
    Complaints,
    Kind,
    Label,
    box_sides,
    class_kind,
    tag_kind,
)

ImageSize = tuple[int, int]


def labelstudio_labels(tasks: list[Any], file: str, complaints: Complaints) -> Iterator[Label]:
    """The labels of a file; what cannot be read of it goes to `complaints`."""
    for number, task in enumerate(tasks):
        try:
            data = task["data"]
            name = str(data.get("image") or data.get("video") or next(iter(data.values())))
            said = task["annotations"] if "annotations" in task else task.get("predictions") or []
            results = [one for part in said if not part.get("was_cancelled") for one in part["result"]]
        except (KeyError, TypeError, AttributeError, StopIteration):
            complaints.add(file, "tasks that are none of images or videos", f"task {number}")
            continue
        for one in results:
            try:
                yield from _said(one, name, file)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError):
                complaints.add(file, "damaged regions", name)


def _said(one: Mapping[str, Any], name: str, file: str) -> Iterator[Label]:
    kind, value = str(one.get("type", "")), one["value"]
    if kind == "choices":
        for choice in value["choices"]:
            if tag := tag_kind(choice):
                yield Label(file, name, tag)
        return
    classes = value.get(kind) or value.get("labels") or [""]
    if kind == "videorectangle":
        for box in value["sequence"]:  # frames count from 1, and sides are percent
            sides = box_sides(*(float(box[key]) / 100 for key in ("x", "y", "width", "height")))
            yield Label(file, name, "box", sides, (1, 1), int(box["frame"]) - 1)
        return
    shapes: dict[str, Kind] = {
        **dict.fromkeys(("brushlabels", "polygonlabels", "ellipselabels", "brush", "polygon", "ellipse"), "mask"),
        **dict.fromkeys(("rectanglelabels", "rectangle"), "box"),
        **dict.fromkeys(("keypointlabels", "keypoint"), "point"),
    }
    if kind not in shapes:
        return  # relations, texts, ratings
    size = int(one["original_width"]), int(one["original_height"])
    said = class_kind(classes[0], shapes[kind])
    if said == "nothing":
        yield Label(file, name, "nothing", None, size)
    elif said is not None:
        yield Label(file, name, said, _region_value(kind.removesuffix("labels"), value, size), size)
    elif str(classes[0]).strip().lower() in BACKGROUND_NAMES:
        raise ValueError("a shape of background")


def _region_value(kind: str, value: Mapping[str, Any], size: ImageSize) -> Any:
    percent = np.array(size) / 100
    if kind == "brush":
        return partial(brush_mask, list(value["rle"]), size)
    if kind == "polygon":
        return partial(polygon_mask, [np.asarray(value["points"], np.float64) * percent], size)
    if kind == "keypoint":
        return tuple(float(side) for side in np.array([value["x"], value["y"]], np.float64) * percent)
    turn = np.deg2rad(float(value.get("rotation", 0)))
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corner = np.array([value["x"], value["y"]], np.float64) * percent
    if kind == "ellipse":
        radii = np.array([value["radiusX"], value["radiusY"]], np.float64) * percent
        ring = UNIT_CIRCLE * radii
        return partial(polygon_mask, [ring @ turned + corner], size)
    sides = np.array([value["width"], value["height"]], np.float64) * percent
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides @ turned + corner
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return box_sides(left, top, right - left, bottom - top)


def brush_mask(rle: list[int], size: ImageSize) -> np.ndarray:
    """What Label Studio's brush holds (see `app.exports.labelstudio`), (H, W) uint8 of 0 and 255.

    Raises:
        ValueError: it is not the mask of an image of this size.
    """
    bits = "".join(f"{int(byte):08b}" for byte in rle)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("a brush mask that ends early")
        return int(bits[place - count : place], 2)

    total, width = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1]:
        raise ValueError(f"a brush mask of {total // 4} pixels for {size[0]}x{size[1]}")
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated = take(1)
        length = take(widths[take(2)]) + 1
        if repeated:
            values[done : done + length] = take(width)
        else:
            values[done : done + length] = [take(width) for _ in range(length)]
        done += length
    return np.where(values[3::4] > 127, 255, 0).astype(np.uint8).reshape(size[1], size[0])
