"""Exports: records in the formats of other tools. A new export is a file here and a line in `FORMATS`."""

from __future__ import annotations

from backdrop.app.exports.coco import write_coco
from backdrop.app.exports.common import Export
from backdrop.app.exports.davis import write_davis
from backdrop.app.exports.labelstudio import write_labelstudio
from backdrop.app.exports.video import write_video
from backdrop.app.exports.yolo import write_yolo

FORMATS: dict[str, Export] = {
    "coco": write_coco,
    "davis": write_davis,
    "yolo": write_yolo,
    "labelstudio": write_labelstudio,
    "video": write_video,
}
"""Format -> what writes it. It writes below <folder>/<format>/, or <folder>/<format>.json."""
