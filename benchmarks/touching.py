"""Subjects that touch, told apart: the instance CRF against the division by boxes that came before it.

    python -m benchmarks.touching            # measure what ships
    python -m benchmarks.touching --learn    # learn weights and templates anew first

Frames are composed of rendered footage: several subjects, each from a clip of its own, in one frame, in a known order
of depth. Subjects that are measured on are not those that were learned from. Soft masks are made worse, as a fair
segmenter's (`composed.worsened_soft`), of all subjects together. "stills" are frames in which subjects touch, and boxes
of all subjects are given, moved by 6 % of their size. In "videos" subjects cross, and no box is given, as D mostly
gives one at most; in one row the division has the boxes all the same. Writes benchmarks/touching.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from backdrop.crf.instance.both_ways import told_apart
from backdrop.crf.instance.composed import (
    Composed,
    LoneSubject,
    Placing,
    compose_frame,
    random_placing,
    worsened_soft,
)
from backdrop.crf.instance.energy import InstanceWeights
from backdrop.crf.instance.labels import (
    DIVIDED_PIXELS,
    INSTANCE_ITERATIONS,
    InstanceDetections,
    instance_labels,
    instance_terms,
)
from backdrop.crf.instance.learning import InstanceExample, learn_instances
from backdrop.crf.instance.shipped import SHIPPED_INSTANCE_CRF, load_instance_crf, save_instance_crf
from backdrop.crf.instance.templates import shape_templates
from backdrop.crf.instance.tracking import FrameToTell, SubjectTracker
from backdrop.crf.instances import divide
from backdrop.io.files import atomic_path
from backdrop.io.masks import box_from_mask, resize_mask, within
from backdrop.networks.predictor import presence
from backdrop.render.clip import MODES, Clip
from backdrop.run.chunks import one_thread
from backdrop.score.instance_measures import ToldFrame, instance_figures

ROOT = Path(__file__).resolve().parent.parent
SIZE, FRAMES = (320, 192), 20
LEARNED_FROM, MEASURED_ON = range(100, 110), range(900, 909)
"""Numbers of the rendered subjects."""

TEMPLATES, STEPS, RATE = 16, 200, 0.08
GIVEN = InstanceWeights()
EVERYWHERE, PAST = 0.1, 0.5
"""Weights of the terms that are off by default, where a row has them; in videos as shares of the weight of shapes."""
MOVED = 0.06
"""Standard deviation of boxes' centers and of the logarithms of their sides, in sides."""

NO_BOXES = np.zeros((0, 4))
LEAST_SEEN = 150
"""Pixels; a subject of which less is seen is not asked for."""


class Told(NamedTuple):
    """What is to be told: the composed frame, and what a method sees of it. boxes: of all subjects in view."""

    composed: Composed
    frame: FrameToTell
    boxes: np.ndarray


def clips(subjects: Sequence[int]) -> list[list[LoneSubject]]:
    """A clip of each subject, without motion blur, so that masks are exact."""
    found = []
    for k in subjects:
        clip = Clip(k, MODES[k % 3], SIZE, FRAMES, subject=k, town=k % 5, stretch=k, blur=False)
        found.append([LoneSubject(clip.frame(t), clip.mask(t)) for t in range(FRAMES)])
    return found


def told(composed: Composed, rng: np.random.Generator) -> Told:
    soft = worsened_soft(np.asarray(composed.masks.any(axis=0)), rng)
    boxes = []
    for mask in composed.whole:
        box = box_from_mask(mask)
        if box is not None:  # it is in view
            center, sides = box[:2] + rng.normal(0, MOVED, 2) * box[2:], box[2:] * np.exp(rng.normal(0, MOVED, 2))
            boxes.append(np.concatenate([center, sides]))
    return Told(composed, FrameToTell(composed.image, soft, soft > 0.5, NO_BOXES), np.array(boxes).reshape(-1, 4))


def touching_still(lone: list[list[LoneSubject]], count: int, rng: np.random.Generator) -> Composed:
    """A frame of so many subjects that make one connected part, and of each of which some is seen."""
    while True:
        first, *rest = (lone[k][rng.integers(FRAMES)] for k in rng.choice(len(lone), count, replace=False))
        if not all(one.mask.sum() > LEAST_SEEN for one in (first, *rest)):
            continue
        found = compose_frame(first, [(one, random_placing(first.mask, rng)) for one in rest])
        seen, whole = (masks.sum(axis=(1, 2)) for masks in (found.masks, found.whole))
        if (seen >= 0.15 * whole).all() and (seen >= LEAST_SEEN).all() and parts(found) == 1:
            return found


def parts(composed: Composed) -> int:
    together = np.asarray(composed.masks.any(axis=0)).astype(np.uint8)
    return cv2.connectedComponents(cv2.dilate(together, np.ones((3, 3), np.uint8)))[0] - 1


def crossing(lone: list[list[LoneSubject]], count: int, rng: np.random.Generator) -> list[Composed]:
    """The frames of a video in which the others pass the first subject, before or behind it."""
    first, *rest = (lone[k] for k in rng.choice(len(lone), count, replace=False))
    side, front = rng.choice([-1, 1], len(rest)), rng.random(len(rest)) < 0.5
    size, middle = rng.uniform(0.85, 1.15, len(rest)), rng.uniform(0.4, 0.6, len(rest)) * FRAMES
    speed, lower = rng.uniform(1.7, 2.3, len(rest)) / FRAMES, rng.uniform(-0.04, 0.04, len(rest))
    found = []
    for t, base in enumerate(first):
        x, y, w, h = cv2.boundingRect(base.mask.view(np.uint8))
        others = []
        for k, clip in enumerate(rest):
            place = x + w / 2 + side[k] * (t - middle[k]) * speed[k] * h, y + (1 + lower[k]) * h - 1
            others.append((clip[t], Placing(*place, h * size[k], bool(front[k]))))
        found.append(compose_frame(base, others))
    return found


def learned(keep: Callable[[str], object] = print) -> tuple[InstanceWeights, np.ndarray]:
    """Weights and templates from composed stills and videos of the subjects of `LEARNED_FROM`."""
    lone, rng = clips(LEARNED_FROM), np.random.default_rng(11)
    templates = shape_templates((one.mask for clip in lone for one in clip[::3]), TEMPLATES)
    examples = []
    for k in range(24):
        one = told(touching_still(lone, 2 + k % 2, rng), rng)
        examples.append(as_example(one, one.composed.masks, InstanceDetections(one.boxes, np.ones(len(one.boxes)))))
    for k in range(8):
        tracker = SubjectTracker(2 + k % 2, GIVEN, templates)
        for composed in crossing(lone, 2 + k % 2, rng):
            one = told(composed, rng)
            for part in tracker.copy().parts_of_next(one.frame):  # as they are found with the given weights
                seen = composed.masks & part.mask
                seen = seen[seen.sum(axis=(1, 2)) >= LEAST_SEEN]
                if len(part.numbers) > 1 and len(seen) > 1 and rng.random() < 0.5:
                    examples.append(as_example(one, seen, part.found))
            tracker.divide_next(one.frame)
    found = learn_instances(examples, GIVEN, templates, INSTANCE_ITERATIONS, steps=STEPS, rate=RATE)
    keep(f"{len(examples)} frames; loss {np.mean(found.losses[:30]):.3f}, then {np.mean(found.losses[-60:]):.3f}")
    return found.weights, found.templates


def as_example(one: Told, truth: np.ndarray, found: InstanceDetections) -> InstanceExample:
    size = within(SIZE, DIVIDED_PIXELS)
    terms = instance_terms(one.frame.image, one.frame.soft, found, None)
    masks = torch.from_numpy(np.stack([resize_mask(mask, size) for mask in truth]))
    return InstanceExample(terms, torch.from_numpy(found.boxes.astype(np.float32)), masks)


def measured(labels: Sequence[np.ndarray], frames: Sequence[Told], touching: bool) -> dict[str, float]:
    """Figures of these frames, or of those alone in which subjects touch."""
    rows = []
    for found, one in zip(labels, frames, strict=True):
        truth = [mask for mask in one.composed.masks if mask.sum() >= LEAST_SEEN]
        if touching and parts(one.composed) >= len(truth):
            continue
        masks = [found == k for k in np.unique(found) if k]
        sure = [presence(np.where(mask, one.frame.soft, 0)) for mask in masks]
        rows.append(ToldFrame(masks, sure, truth))
    return {"frames": len(rows), **{name: round(value, 4) for name, value in instance_figures(rows).items()}}


def by_stills(frames: Sequence[Told]) -> dict[str, list[np.ndarray]]:
    """Labels of each way for frames with given boxes."""
    weights, templates = load_instance_crf()
    plain = GIVEN._replace(look=0.0)
    choices = {
        "CRF: box": plain._replace(shape=0.0),
        "CRF: box, global": plain._replace(shape=0.0, everywhere=EVERYWHERE),
        "CRF: box, shape": plain,
        "CRF: box, global, shape": plain._replace(everywhere=EVERYWHERE),
        "CRF: box, shape, learned (ships)": weights,
        "the same, no pairwise terms": weights._replace(gaussian=0.0, bilateral=0.0),
    }
    found = {"divided among boxes": [divide(one.frame.mask, one.boxes, len(one.boxes)) for one in frames]}
    for name, chosen in choices.items():
        found[name] = []
        for one in frames:
            detections = InstanceDetections(one.boxes, np.ones(len(one.boxes)))
            found[name].append(instance_labels(*one.frame[:3], detections, weights=chosen, templates=templates))
    return found


def by_video(frames: Sequence[Told]) -> dict[str, list[np.ndarray]]:
    """Labels of each way for the frames of a video."""
    weights, templates = load_instance_crf()
    count = len(frames[0].composed.masks)
    found = {
        "separate parts alone": [divide(one.frame.mask, NO_BOXES, count) for one in frames],
        "divided among boxes of all": [divide(one.frame.mask, one.boxes, count) for one in frames],
    }
    ways = {
        "CRF, forward": weights,
        "CRF, forward, no look": weights._replace(look=0.0),
        "CRF, forward, no shape": weights._replace(shape=0.0),
        "CRF, forward, with global": weights._replace(everywhere=EVERYWHERE * weights.shape),
        "CRF, forward, with past": weights._replace(past=PAST * weights.shape),
    }
    for name, chosen in ways.items():
        tracker = SubjectTracker(count, chosen, templates)
        found[name] = [tracker.divide_next(one.frame).labels for one in frames]
    tracker = SubjectTracker(count)
    found["CRF, both ways (ships)"] = list(told_apart((one.frame for one in frames), tracker))
    return found


def evaluate(stills: int, videos: int) -> dict[str, Any]:
    """{kind and number of subjects: {way: figures}}."""
    lone, rng, result = clips(MEASURED_ON), np.random.default_rng(5), {}
    for count in (2, 3):
        frames = [told(touching_still(lone, count, rng), rng) for _ in range(stills)]
        result[f"stills, {count} subjects"] = {
            way: measured(labels, frames, False) for way, labels in by_stills(frames).items()
        }
    for count in (2, 3):
        frames, labels = [], dict[str, list[np.ndarray]]()
        for _ in range(videos):
            video = [told(composed, rng) for composed in crossing(lone, count, rng)]
            frames += video
            for way, found in by_video(video).items():
                labels.setdefault(way, []).extend(found)
        for touching in (True, False):
            name = f"videos, {count} subjects, {'frames in which they touch' if touching else 'all frames'}"
            result[name] = {way: measured(found, frames, touching) for way, found in labels.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", action="store_true", help="replace the weights that ship")
    parser.add_argument("--stills", type=int, default=40, help="of each number of subjects")
    parser.add_argument("--videos", type=int, default=3, help="of each number of subjects")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "touching.json")
    arguments = parser.parse_args()
    with one_thread():
        if arguments.learn:
            save_instance_crf(SHIPPED_INSTANCE_CRF, *learned())
            load_instance_crf.cache_clear()
        result = {"weights": load_instance_crf()[0]._asdict(), **evaluate(arguments.stills, arguments.videos)}
    with atomic_path(arguments.out) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for kind, rows in result.items():
        if kind != "weights":
            print(f"{kind}\n| way | " + " | ".join(next(iter(rows.values()))) + " |")
            for way, figures in rows.items():
                print(f"| {way} | " + " | ".join(f"{value:.3g}" for value in figures.values()) + " |")


if __name__ == "__main__":
    main()
