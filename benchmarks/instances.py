"""Several subjects: J of each, from Berkeley's sequences whose masks tell the subjects apart.

    python -m benchmarks.sequences bms26 /path/to/BMS26 --only people2 marple9 --set student.subjects=2
    python -m benchmarks.instances /path/to/BMS26

The first command trains on each sequence without labels; this one segments all frames and matches subjects and truth
of the annotated ones so that the sum of their J is largest (the Hungarian method); a subject of the truth without a
match has J 0. Ways of telling subjects apart: the instance CRF, which sees the whole video (what ships, by
`backdrop.crf.instance`), the mask divided among boxes and components frame by frame (`instances.divide`), components
alone, and the masks that S makes of the chosen boxes. "one mask" gives all of it to one subject.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from backdrop.app.pictures import SUBJECT_COLORS
from backdrop.app.segmenter import Segmenter
from backdrop.crf.dense import refine
from backdrop.crf.instance.both_ways import told_apart
from backdrop.crf.instance.tracking import FrameToTell, SubjectTracker
from backdrop.crf.instances import Labels, chosen_boxes, divide
from backdrop.draw import draw_mask
from backdrop.io.files import atomic_path
from backdrop.io.images import encode_jpeg
from backdrop.io.masks import Mask, read_threshold
from backdrop.networks.predictor import Prediction, presence
from backdrop.params import Params, read
from backdrop.score.instance_measures import ToldFrame, instance_figures, matched_ious

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("people2", "marple9")


class Found:
    """A frame: the image, what the model predicts, and the final mask of up to `count` subjects."""

    def __init__(self, segmenter: Segmenter, image: np.ndarray, threshold: float, params: Params, count: int) -> None:
        self.segmenter, self.image, self.count, self.threshold = segmenter, image, count, threshold
        self.labels: Labels | None = None  # the instance CRF sees frames in their order
        self.prediction: Prediction = segmenter.predict(image, count)
        self.mask: Mask = refine(image, self.prediction.mask, threshold, params.crf)  # type: ignore[arg-type]

    def one(self) -> list[Mask]:
        return [self.mask]

    def components(self) -> list[Mask]:
        return _parts(divide(self.mask, np.zeros((0, 4)), self.count))

    def divided(self) -> list[Mask]:
        return _parts(divide(self.mask, chosen_boxes(self.prediction, self.mask, self.count), self.count))

    def told(self) -> list[Mask]:
        assert self.labels is not None  # `evaluate` sets it
        return [self.labels == k for k in np.unique(self.labels) if k]

    def crops(self) -> list[Mask]:
        boxes = chosen_boxes(self.prediction, np.ones_like(self.mask), self.count).astype(np.float32)
        soft = self.segmenter.masks_at(self.image, boxes)
        best = soft.argmax(axis=0)
        return [(one > self.threshold) & (best == k) for k, one in enumerate(soft)]


WAYS: dict[str, Callable[[Found], list[Mask]]] = {
    "one mask": Found.one,
    "components": Found.components,
    "divided": Found.divided,
    "instance CRF": Found.told,
    "S in boxes": Found.crops,
}


def _parts(labels: np.ndarray) -> list[Mask]:
    return [labels == k for k in range(1, int(labels.max()) + 1)]


def evaluate(project: Path, root: Path, name: str, count: int, pictures: Path | None) -> dict[str, Any]:
    """J of all annotated frames of a sequence, by way. The divided masks are drawn into `pictures`."""
    segmenter, params = Segmenter.load(project / "models" / "segmenter"), read(project / "params.yaml")
    threshold = read_threshold(project / "data" / "masks")[0]
    scores: dict[str, list[float]] = {way: [] for way in WAYS}
    rows: dict[str, list[ToldFrame]] = {way: [] for way in WAYS}
    paths = sorted((root / name).glob("*.jpg"))
    frames = [Found(segmenter, np.asarray(Image.open(path).convert("RGB")), threshold, params, count) for path in paths]
    told = told_apart((_to_tell(found) for found in frames), SubjectTracker(count))
    for path, found, labels in zip(paths, frames, told, strict=True):
        found.labels = labels
        if not path.with_suffix(".pgm").exists():
            continue
        stored = np.asarray(Image.open(path.with_suffix(".pgm")))
        truth = [stored == value for value in np.unique(stored) if value]
        for way, tell in WAYS.items():
            masks = tell(found)
            scores[way] += matched_ious(masks, truth).tolist()
            sure = [presence(np.where(mask, found.prediction.mask, 0)) for mask in masks]
            rows[way].append(ToldFrame(masks, sure, truth))
        if pictures is not None:
            _draw(pictures / name / f"{path.stem}.jpg", found, truth)
    return {
        "sequence": name,
        "subjects": len(scores["divided"]),
        "J": {way: float(np.mean(values)) for way, values in scores.items()},
        "found_a_frame": {way: float(np.mean([len(row.masks) for row in values])) for way, values in rows.items()},
        "figures": {way: instance_figures(values) for way, values in rows.items()},
    }


def _to_tell(found: Found) -> FrameToTell:
    boxes = chosen_boxes(found.prediction, found.mask, found.count)
    return FrameToTell(found.image, found.prediction.mask, found.mask, boxes)  # type: ignore[arg-type]


def _draw(path: Path, found: Found, truth: list[Mask]) -> None:
    """What ships beside the truth."""
    sides = []
    for masks in (found.told(), truth):
        picture = found.image
        for i, mask in enumerate(masks):
            picture = draw_mask(picture, mask, SUBJECT_COLORS[i])
        sides.append(cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_jpeg(np.hstack(sides)))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "sequences" / "sequence")
    parser.add_argument("--count", type=int, default=2, help="subjects at most")
    parser.add_argument("--only", nargs="+", default=NAMES)
    parser.add_argument("--pictures", type=Path, help="a folder for overlays")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "instances.json")
    args = parser.parse_args()
    results = [evaluate(args.work / name, args.root, name, args.count, args.pictures) for name in args.only]
    print("| sequence | " + " | ".join(WAYS) + " |\n|" + " --- |" * (len(WAYS) + 1))
    for result in results:
        cells = [f"{result['J'][way]:.2f} ({result['found_a_frame'][way]:.1f})" for way in WAYS]
        print(f"| {result['sequence']} | " + " | ".join(cells) + " |")
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
