"""Export labelstudio: brush labels for Label Studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from backdrop.app.exports.common import (
    CATEGORY,
    DEFAULTS,
    ExportChoices,
    Faults,
    Recorded,
    each_source,
    file_name,
    write_json,
    write_text,
)
from backdrop.app.exports.images import write_images
from backdrop.app.records import Records, SubjectRecord
from backdrop.app.sources import Source
from backdrop.io.masks import Mask

_RUN_BITS = (3, 4, 8, 16)
"""How many bits the length of a run may have. Each run takes the smallest number that holds its length."""


def brush_rle(mask: Mask) -> list[int]:
    """A mask as Label Studio's brush holds it: run lengths of its RGBA bytes, as a list of bytes.

    The list is a stream of bits. It begins with the number of values (32 bits), the bits per value less one (5 bits),
    and the four widths of run lengths less one (4 bits each). Then come blocks: 1 for one value repeated, which width
    (2 bits), the length less one, the value.
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


def _brush(size: tuple[int, int], part: SubjectRecord) -> dict[str, Any]:
    return {
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "meta": {"text": [f"{CATEGORY} {part.number}"]},
        "value": {"format": "rle", "rle": brush_rle(part.decoded()), "brushlabels": [CATEGORY]},
    }


def _described_frames(source: Source, records: Records) -> list[tuple[str, float, list[tuple[int, dict[str, Any]]]]]:
    """Of each frame its name, its confidence, and the number and region of each subject."""
    return [
        (
            file_name(source, record),
            record.confidence,
            [(part.number, _brush(record.size, part)) for part in record.parts()],
        )
        for record in records.frames
    ]


_CONFIG = f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="tag" toName="image">
    <Label value="{CATEGORY}" background="#ec5f67"/>
  </BrushLabels>
</View>
"""


def url(prefix: str, name: str) -> str:
    """Where Label Studio finds a file. Without a prefix it is the name alone."""
    return prefix + quote(name) if prefix else name


def write_labelstudio(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/labelstudio.json: tasks with brush predictions; and labelstudio.xml: a project's labeling config.

    Each subject is a region, with its number in the region's notes. With images, these lie in
    <folder>/labelstudio/images/.
    """
    images: list[Path] = []
    if choices.images:
        found, images = write_images(found, folder / "labelstudio" / "images", file_name, faults)
    tasks: list[dict[str, Any]] = []
    for own in each_source(found, faults, _described_frames):
        for image, score, regions in own:
            results = [{"id": f"{len(tasks)}-{number}"} | region for number, region in regions]
            prediction = {"model_version": "backdrop", "score": score, "result": results}
            tasks.append({"data": {"image": url(choices.url_prefix, image)}, "predictions": [prediction]})
    write_json(folder / "labelstudio.json", tasks)
    write_text(folder / "labelstudio.xml", _CONFIG)
    return [folder / "labelstudio.json", folder / "labelstudio.xml", *images]
