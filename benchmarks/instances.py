"""Several subjects: J of each, from Berkeley's sequences whose masks tell the subjects apart.

    python -m benchmarks.sequences bms26 /path/to/BMS26 --only people2 marple9 --set student.subjects=2
    python -m benchmarks.instances /path/to/BMS26

The first command trains on each sequence without labels; this one segments its annotated frames and matches subjects
and truth so that the sum of their J is largest (the Hungarian method); a subject of the truth without a match has J 0.
Three ways of telling subjects apart are compared: the mask divided among boxes and components (what ships, by
`backdrop.crf.instances`), by components alone, and the masks that S makes of the chosen boxes.
"one mask" gives all of it to one subject.
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
from scipy.optimize import linear_sum_assignment

from backdrop.app.pictures import SUBJECT_COLORS
from backdrop.app.segmenter import Segmenter
from backdrop.crf.dense import refine
from backdrop.crf.instances import chosen_boxes, divide
from backdrop.draw import draw_mask
from backdrop.io.files import atomic_path
from backdrop.io.images import encode_jpeg
from backdrop.io.masks import Mask, read_threshold
from backdrop.measures import jaccard
from backdrop.networks.predictor import Prediction
from backdrop.params import Params, read

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("people2", "marple9")


class Found:
    """A frame: the image, what the model predicts, and the final mask of up to `count` subjects."""

    def __init__(self, segmenter: Segmenter, image: np.ndarray, threshold: float, params: Params, count: int) -> None:
        self.segmenter, self.image, self.count, self.threshold = segmenter, image, count, threshold
        self.prediction: Prediction = segmenter.predict(image, count)
        self.mask: Mask = refine(image, self.prediction.mask, threshold, params.crf)  # type: ignore[arg-type]

    def one(self) -> list[Mask]:
        return [self.mask]

    def components(self) -> list[Mask]:
        return _parts(divide(self.mask, np.zeros((0, 4)), self.count))

    def divided(self) -> list[Mask]:
        return _parts(divide(self.mask, chosen_boxes(self.prediction, self.mask, self.count), self.count))

    def crops(self) -> list[Mask]:
        boxes = chosen_boxes(self.prediction, np.ones_like(self.mask), self.count).astype(np.float32)
        soft = self.segmenter.masks_at(self.image, boxes)
        best = soft.argmax(axis=0)
        return [(one > self.threshold) & (best == k) for k, one in enumerate(soft)]


WAYS: dict[str, Callable[[Found], list[Mask]]] = {
    "one mask": Found.one,
    "components": Found.components,
    "divided": Found.divided,
    "S in boxes": Found.crops,
}


def _parts(labels: np.ndarray) -> list[Mask]:
    return [labels == k for k in range(1, int(labels.max()) + 1)]


def matched(found: list[Mask], truth: list[Mask]) -> list[float]:
    """J of each subject of the truth with the mask that is given to it; 0 without one."""
    shared = np.array([[jaccard(f, t) for f in found] for t in truth]).reshape(len(truth), len(found))
    scores = [0.0] * len(truth)
    for i, j in zip(*linear_sum_assignment(-shared), strict=True):
        scores[i] = float(shared[i, j])
    return scores


def evaluate(project: Path, root: Path, name: str, count: int, pictures: Path | None) -> dict[str, Any]:
    """J of all annotated frames of a sequence, by way. The divided masks are drawn into `pictures`."""
    segmenter, params = Segmenter.load(project / "models" / "segmenter"), read(project / "params.yaml")
    threshold = read_threshold(project / "data" / "masks")[0]
    scores: dict[str, list[float]] = {way: [] for way in WAYS}
    counts: dict[str, list[int]] = {way: [] for way in WAYS}
    for path in sorted((root / name).glob("*.pgm")):
        stored = np.asarray(Image.open(path))
        truth = [stored == value for value in np.unique(stored) if value]
        image = np.asarray(Image.open(path.with_suffix(".jpg")).convert("RGB"))
        found = Found(segmenter, image, threshold, params, count)
        for way, tell in WAYS.items():
            masks = tell(found)
            scores[way] += matched(masks, truth)
            counts[way].append(len(masks))
        if pictures is not None:
            _draw(pictures / name / f"{path.stem}.jpg", found, truth)
    return {
        "sequence": name,
        "subjects": len(scores["divided"]),
        "J": {way: float(np.mean(values)) for way, values in scores.items()},
        "found_a_frame": {way: float(np.mean(values)) for way, values in counts.items()},
    }


def _draw(path: Path, found: Found, truth: list[Mask]) -> None:
    """What ships beside the truth."""
    sides = []
    for masks in (found.divided(), truth):
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
    parser.add_argument("--pictures", type=Path, help="a folder for overlays")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "instances.json")
    args = parser.parse_args()
    results = [evaluate(args.work / name, args.root, name, args.count, args.pictures) for name in NAMES]
    print("| sequence | " + " | ".join(WAYS) + " |\n|" + " --- |" * (len(WAYS) + 1))
    for result in results:
        cells = [f"{result['J'][way]:.2f} ({result['found_a_frame'][way]:.1f})" for way in WAYS]
        print(f"| {result['sequence']} | " + " | ".join(cells) + " |")
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
