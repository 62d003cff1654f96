"""The folder that `backdrop review` writes: the frames, a page, and tasks for CVAT and Label Studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from backdrop.app.exports.coco import write_coco
from backdrop.app.exports.common import CATEGORY, ExportChoices, Recorded, write_json, write_text
from backdrop.app.exports.labelstudio import write_labelstudio
from backdrop.app.records import Record, Records, encoded
from backdrop.app.review.choice import Candidate
from backdrop.app.sources import Source
from backdrop.draw import draw_mask
from backdrop.io.files import atomic_folder
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_jpeg
from backdrop.io.masks import MaskArchive
from backdrop.student.labels.footage import JOINT

_LABELING = f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <Choices name="there" toName="image"><Choice value="nothing here"/><Choice value="something here"/></Choices>
  <RectangleLabels name="box" toName="image"><Label value="{CATEGORY}" background="#ec5f67"/></RectangleLabels>
  <BrushLabels name="tag" toName="image"><Label value="{CATEGORY}" background="#ec5f67"/></BrushLabels>
  <KeyPointLabels name="point" toName="image">
    <Label value="{CATEGORY}" background="#ec5f67"/><Label value="background" background="#3b6ea5"/>
  </KeyPointLabels>
</View>
"""

CVAT_CLASSES = [
    {"name": CATEGORY, "attributes": []},
    {"name": "nothing", "type": "tag", "attributes": []},
    {"name": "present", "type": "tag", "attributes": []},
    {"name": "background", "type": "points", "attributes": []},
]
"""For CVAT's raw constructor of labels."""


def write_review(project: Path, chosen: Sequence[Candidate], folder: Path, url_prefix: str = "") -> None:
    """Write the folder, all of it or nothing.

    It holds images/ (the frames), shown/ (with their masks), index.html, coco.json and cvat-labels.json for CVAT,
    labelstudio.json and labelstudio.xml.

    Raises:
        WriteError: it cannot be written.
    """
    with atomic_folder(folder) as part:
        for name in ("images", "shown"):
            (part / name).mkdir()
        found = [_written(project, one, part) for one in chosen]
        write_coco(found, part)
        write_labelstudio(found, part, ExportChoices(url_prefix=url_prefix))
        write_text(part / "labelstudio.xml", _LABELING)
        write_json(part / "cvat-labels.json", CVAT_CLASSES)
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("backdrop.app.review", "."), autoescape=True, undefined=jinja2.StrictUndefined
        )
        rows = [
            {"file": source.file, "name": one.sequence, "frame": records.frames[0].frame, "sure": f"{one.sure:.2f}"}
            for one, (source, records) in zip(chosen, found, strict=True)
        ]
        write_text(part / "index.html", environment.get_template("page.html.jinja").render(rows=rows))


def _written(project: Path, one: Candidate, folder: Path) -> Recorded:
    """Write a frame, without and with its mask; its record."""
    frames = FrameArchive(project / "data" / "frames" / f"{one.sequence}.zip")
    mask = MaskArchive(project / "data" / "masks" / f"{one.video}.zip").gray(one.place) > 127
    name, image = f"{one.sequence}{JOINT}{frames.names[one.t]}", frames.image(one.t)
    (folder / "images" / f"{name}.jpg").write_bytes(encode_jpeg(image))
    (folder / "shown" / f"{name}.jpg").write_bytes(encode_jpeg(draw_mask(image, mask)))
    size = (image.shape[1], image.shape[0])
    sure, time = round(one.sure, 4), float(frames.times[one.t])
    record = Record(one.t, time, size, (0.0, 0.0, 0.0, 0.0), sure, sure, encoded(mask))
    return Source(folder / "images" / f"{name}.jpg", name, False, f"{name}.jpg"), Records({}, [record], True)
