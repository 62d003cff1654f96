"""Labels in CVAT's XML: "CVAT for images 1.1" and "CVAT for video 1.1".

Of tracks, keyframes count: what CVAT fills in between was drawn by nobody.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from backdrop.io.run_lengths import mask_of_runs
from backdrop.student.labels.coco import UNIT_CIRCLE, polygon_mask
from backdrop.student.labels.label import Complaints, Label, class_kind, tag_kind


class _Image(NamedTuple):
    name: str
    size: tuple[int, int] | None
    number: int | None = None


def cvat_labels(root: ET.Element, file: str, complaints: Complaints) -> Iterator[Label]:
    """The labels of a file; what cannot be read of it goes to `complaints`."""
    for image in root.iter("image"):
        try:
            about = _Image(image.attrib["name"], (int(image.attrib["width"]), int(image.attrib["height"])))
        except (KeyError, ValueError):
            complaints.add(file, "images without a name or a size", image.get("name") or "")
            continue
        for shape in image:
            yield from _labels_of(shape, shape.get("label"), about, file, complaints)
    name = _video_name(root, file)
    size = _video_size(root)
    for track in root.iter("track"):
        for shape in track:
            if shape.get("outside") == "1" or shape.get("keyframe", "1") == "0":
                continue
            try:
                about = _Image(name, size, int(shape.attrib["frame"]))
            except (KeyError, ValueError):
                complaints.add(file, "shapes of a track without a frame", f"track {track.get('id')}")
                continue
            yield from _labels_of(shape, track.get("label"), about, file, complaints)


def _video_name(root: ET.Element, file: str) -> str:
    """Of the video: as CVAT calls its file, else the task's name, else this file's."""
    for path in (".//source", "./meta/task/name", "./meta/job/name"):
        found = root.find(path)
        if found is not None and found.text:
            return found.text.strip()
    return PurePosixPath(file).stem


def _video_size(root: ET.Element) -> tuple[int, int] | None:
    try:
        width, height = (int(root.findtext(f".//original_size/{side}", "")) for side in ("width", "height"))
    except ValueError:
        return None
    return width, height


def _labels_of(shape: ET.Element, name: Any, image: _Image, file: str, complaints: Complaints) -> Iterator[Label]:
    kinds: dict[str, Any] = {"box": "box", "polygon": "mask", "mask": "mask", "ellipse": "mask", "points": "point"}
    kind = class_kind(name, kinds.get(shape.tag, "mask"))
    if shape.tag == "tag":
        kind = tag_kind(name)
    if kind == "nothing" or kind == "present":
        yield Label(file, image.name, kind, None, image.size, image.number)
        return
    if shape.tag not in kinds or kind is None:
        if shape.tag not in ("tag", "attribute"):
            complaints.add(file, f"shapes that say nothing here ({shape.tag} of {name})", image.name)
        return
    try:
        for value in _shape_values(shape, image):
            yield Label(file, image.name, kind, value, image.size, image.number)
    except (KeyError, ValueError, TypeError):
        complaints.add(file, f"damaged shapes ({shape.tag})", image.name)


def _shape_values(shape: ET.Element, image: _Image) -> list[Any]:
    """What a shape says, a value for each label."""
    given = shape.attrib
    if shape.tag == "box":
        box = tuple(float(given[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
        if not np.isfinite(box).all():
            raise ValueError("no finite numbers")
        return [box]
    if image.size is None:
        raise ValueError("no size of the image is stated")
    if shape.tag == "mask":
        left, top, width, height = (int(float(given[key])) for key in ("left", "top", "width", "height"))
        runs = [int(run) for run in given["rle"].split(",")]
        return [partial(_placed, runs, (left, top, width, height), image.size)]
    if shape.tag == "ellipse":
        center, radii = (np.array([float(given[k + side]) for side in "xy"]) for k in "cr")
        ring = UNIT_CIRCLE * radii
        turn = np.deg2rad(float(given.get("rotation", 0)))
        turned = ring @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + center
        return [partial(polygon_mask, [turned], image.size)]
    corners = np.array([[float(part) for part in pair.split(",")] for pair in given["points"].split(";")])
    if shape.tag == "points":
        return [(float(x), float(y)) for x, y in corners]
    return [partial(polygon_mask, [corners], image.size)]


def _placed(runs: list[int], box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """The whole image's mask, from the runs along the rows of a part of it."""
    left, top, width, height = box
    if min(left, top) < 0 or left + width > size[0] or top + height > size[1]:
        raise ValueError("a mask that leaves the image")
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[top : top + height, left : left + width] = mask_of_runs(runs, (width, height), by_rows=True) * np.uint8(255)
    return mask
