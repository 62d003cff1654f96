"""Exports cvat, labelstudio-video: each subject's boxes through a video. Tools fill in between the keyframes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from backdrop.app.exports.common import (
    CATEGORY,
    DEFAULTS,
    ExportChoices,
    Faults,
    Files,
    Recorded,
    check_kept,
    each_source,
    write_each,
    write_json,
    write_text,
)
from backdrop.app.exports.labelstudio import url
from backdrop.app.exports.video import only_videos
from backdrop.app.records import Record, Records
from backdrop.app.sources import Source
from backdrop.video.decode import probe

STRAY = 1.0
"""Pixels by which a side of a box may stray, where a tool fills between keyframes."""


class Keyframe(NamedTuple):
    """A keyframe. frame: its number. time: in seconds. box: left, top, right, bottom in pixels."""

    frame: int
    time: float
    box: tuple[float, float, float, float]


class Run(NamedTuple):
    """Frames in a row that show a subject, in keyframes. after: the segmented frame after them; None: there is none."""

    keys: list[Keyframe]
    after: int | None


def tracks(records: Records) -> dict[int, list[Run]]:
    """The runs of each subject, by its number. Boxes hold the masks, unless they are steadied."""
    seen: dict[int, list[tuple[int, Keyframe]]] = {}
    for i, record in enumerate(records.frames):
        boxes = _extents(record) if records.boxes is None else records.boxes[i]
        for number, box in boxes.items():
            seen.setdefault(number, []).append((i, Keyframe(record.frame, record.time, box)))
    return {number: list(_runs(seen[number], records)) for number in sorted(seen)}


def _extents(record: Record) -> dict[int, tuple[float, float, float, float]]:
    """Number -> left, top, right, bottom of the subject's mask."""
    found = {}
    for part in record.parts():
        left, top, width, height = cv2.boundingRect(part.decoded().astype(np.uint8))
        found[part.number] = (float(left), float(top), float(left + width), float(top + height))
    return found


def steadied(found: Sequence[Recorded]) -> list[Recorded]:
    """The same with steadied boxes and numbers of subjects (`adjust.identities`); masks stay as they are.

    Images, a video without any mask, and one whose frames change their size stay as they are. A subject that is not
    seen for a few frames has boxes there, too.
    """
    return [(source, _steady(records) if source.video else records) for source, records in found]


def _steady(records: Records) -> Records:
    from backdrop.adjust.identities import MaskedFrame, steady_tracks  # PyTorch is slow to import

    shown, parts = [], []
    for record in records.frames:
        parts.append([part for part in record.parts() if part.decoded().any()])
        numbers, masks = tuple(part.number for part in parts[-1]), tuple(part.decoded() for part in parts[-1])
        shown.append(MaskedFrame(float(record.frame), numbers, masks))
    if not any(parts) or len({record.size for record in records.frames}) > 1:
        return records
    steady = steady_tracks(shown)
    frames, boxes = [], []
    for record, own, numbers, there in zip(records.frames, parts, steady.numbers, steady.boxes, strict=True):
        if record.instances is not None:
            own = [part._replace(number=number) for part, number in zip(own, numbers, strict=True)]
            record = record._replace(instances=tuple(sorted(own, key=lambda part: part.number)))
        inside = {number: _clipped(box.tolist(), record.size) for number, box in there.items()}
        kept = {number: box for number, box in inside.items() if box[2] - box[0] >= 1 and box[3] - box[1] >= 1}
        frames.append(record)
        boxes.append(dict(sorted((_extents(record) | kept).items())))
    return records._replace(frames=frames, boxes=boxes)


def _clipped(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (
        round(min(max(edge, 0.0), float(side)), 2) for edge, side in zip(box, (*size, *size), strict=True)
    )
    return left, top, right, bottom


def _runs(seen: Sequence[tuple[int, Keyframe]], records: Records) -> Iterator[Run]:
    ends = [k for k, ((i, _), (j, _)) in enumerate(pairwise(seen), 1) if j != i + 1]
    for begin, end in pairwise([0, *ends, len(seen)]):
        last = seen[end - 1][0] + 1
        after = records.frames[last].frame if last < len(records.frames) else None
        yield Run(keyframes([key for _, key in seen[begin:end]]), after)


def keyframes(keys: Sequence[Keyframe]) -> list[Keyframe]:
    """The fewest of these keyframes that a split at the worst frame finds, so that no side strays by more than `STRAY`.

    Between keyframes, sides move evenly with the frame's number.
    """
    frames = np.array([key.frame for key in keys], float)
    boxes = np.array([key.box for key in keys])
    kept, open_ = {0, len(keys) - 1}, [(0, len(keys) - 1)]
    while open_:
        first, last = open_.pop()
        if last - first < 2:
            continue
        inner = slice(first + 1, last)
        share = (frames[inner] - frames[first])[:, None] / (frames[last] - frames[first])
        strayed = np.abs(boxes[first] + share * (boxes[last] - boxes[first]) - boxes[inner]).max(axis=1)
        worst = int(strayed.argmax())
        if strayed[worst] > STRAY:
            middle = first + 1 + worst
            kept.add(middle)
            open_ += [(first, middle), (middle, last)]
    return [keys[k] for k in sorted(kept)]


def write_cvat(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/cvat/<name>.xml: "CVAT for video 1.1", a track per subject. Images are left out.

    Raises:
        BackdropError: there is no video among the sources.
    """

    def files(source: Source, records: Records) -> Files:
        tree = ET.ElementTree(_cvat(source, records))
        ET.indent(tree)
        written = partial(tree.write, encoding="utf-8", xml_declaration=True)
        yield folder / "cvat" / f"{source.name}.xml", written

    return write_each(only_videos(found, "cvat", "coco"), faults, files)


def _cvat(source: Source, records: Records) -> ET.Element:
    root = ET.Element("annotations")
    _add(root, "version", "1.1")
    task = _add(_add(root, "meta"), "task")
    frames = records.frames
    count = 1 + (frames[-1].frame if frames else 0)
    about = {"name": source.name, "size": count, "mode": "interpolation", "start_frame": 0, "stop_frame": count - 1}
    for key, value in about.items():
        _add(task, key, str(value))
    label = _add(_add(task, "labels"), "label")
    _add(label, "name", CATEGORY)
    _add(label, "attributes")
    size = _add(task, "original_size")
    for side, pixels in zip(("width", "height"), frames[0].size if frames else (0, 0), strict=True):
        _add(size, side, str(pixels))
    for number, runs in tracks(records).items():
        track = _add(root, "track", id=str(number), label=CATEGORY, source="auto")
        for run in runs:
            for one in run.keys:
                _add_box(track, one.frame, one.box, outside=False)
            if run.after is not None:
                _add_box(track, run.after, run.keys[-1].box, outside=True)
    return root


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    child = ET.SubElement(parent, tag, attributes)
    child.text = text
    return child


def _add_box(track: ET.Element, frame: int, box: tuple[float, float, float, float], outside: bool) -> None:
    sides = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{side:.2f}" for side in box), strict=True))
    state = {"keyframe": "1", "outside": str(int(outside)), "occluded": "0", "z_order": "0"}
    _add(track, "box", None, frame=str(frame), **state, **sides)


_VIDEO_CONFIG = f"""<View>
  <Video name="video" value="$video" frameRate="$fps"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="tag" toName="video">
    <Label value="{CATEGORY}" background="#ec5f67"/>
  </Labels>
</View>
"""


def write_labelstudio_video(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/labelstudio-video.json: a task per video, a timeline per subject; its config is .xml.

    Raises:
        BackdropError: there is no video among the sources.
    """
    videos = only_videos(found, "labelstudio-video", "labelstudio")
    tasks = list(each_source(videos, faults, partial(_task, choices.url_prefix)))
    files = [folder / f"labelstudio-video{end}" for end in (".json", ".xml")]
    write_json(files[0], tasks)
    write_text(files[1], _VIDEO_CONFIG)
    return files


def _task(prefix: str, source: Source, records: Records) -> dict[str, Any]:
    check_kept(source, records)
    fps, frames = probe(source.path).fps, records.frames
    results = [
        {
            "id": str(number),
            "type": "videorectangle",
            "from_name": "box",
            "to_name": "video",
            "meta": {"text": [f"{CATEGORY} {number}"]},
            "value": {
                "framesCount": frames[-1].frame + 1,
                "duration": records.ending.end,
                "sequence": [row for run in runs for row in _timeline(run, frames[0].size)],
                "labels": [CATEGORY],
            },
        }
        for number, runs in tracks(records).items()
    ]
    score = float(np.mean([record.confidence for record in frames])) if frames else 0.0
    video = url(prefix, source.file or f"{source.name}{source.path.suffix}")
    prediction = {"model_version": "backdrop", "score": round(score, 4), "result": results}
    return {"data": {"video": video, "fps": round(fps, 6)}, "predictions": [prediction]}


def _timeline(run: Run, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Label Studio counts frames from 1, and sides in percent. A keyframe that is not enabled ends the run."""
    scale = 100 / np.array([*size, *size])
    for key in run.keys:
        left, top, right, bottom = (round(float(side), 4) for side in np.array(key.box) * scale)
        place = {"x": left, "y": top, "width": round(right - left, 4), "height": round(bottom - top, 4), "rotation": 0}
        yield {"frame": key.frame + 1, "time": key.time, "enabled": key is not run.keys[-1], **place}
