"""Labels in the student's rounds: they stand in place of pseudo-masks, and each batch holds some."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from backdrop.io.masks import Soft
from backdrop.learn.training_frames import TrainingFrames
from backdrop.student.labels.carried import CARRY, carried
from backdrop.student.labels.checked import FrameLabel, FrameLabels
from backdrop.student.labels.proposals import Plane, learned, of_tag
from backdrop.student.parameters import StudentParams
from backdrop.student.pseudo_masks import Work, stabilized_frames
from backdrop.student.targets import IGNORED

TAUGHT_SHARE = 0.25
"""Share of a batch that labels have a say in, however few they are among the frames."""


def taught_frames(labels: Mapping[int, FrameLabel], count: int, every: int) -> dict[int, int]:
    """Frame -> the labeled frame that says what it shows: itself, or the nearest one within `CARRY` frames.

    Args:
        count: frames of the sequence, of which 0, `every`, ... are used.
    """
    found = {t: t for t in labels}
    for distance in range(1, CARRY + 1):
        for t, label in sorted(labels.items()):
            if not (label.boxes or (label.mask is not None and label.mask.any())):
                continue  # a subject can come in at any time, and a point says too little
            for u in (t - distance, t + distance):
                if 0 <= u < count and u % every == 0:
                    found.setdefault(u, t)
    return found


def take_labels(work: Work, labels: Mapping[int, FrameLabel], params: StudentParams) -> None:
    """Put what people said of a sequence's frames in place of the pseudo-masks in `work.labels`."""
    cv2.setNumThreads(1)
    sequence = stabilized_frames(work, params.size, params)
    out = np.load(work.labels, mmap_mode="r+")
    taught = taught_frames(labels, work.count, params.every)
    activations = _activations(work)
    for t, label in labels.items():
        if label.tag_alone:
            out[t] = of_tag(out[t], sequence.subject(t), activations.get(t))
            continue
        plane = learned(sequence.image(t), label, _second(out[t], sequence.subject(t)))
        for stop in (min, max):
            last = stop(u for u, source in taught.items() if source == t)
            for u, moved in (carried(plane, t, last, sequence.image) if last != t else {}).items():
                if taught.get(u) == t:
                    out[u] = moved
        out[t] = plane
    if sequence.region is not None:
        for u in taught:
            out[u] = np.where(sequence.region, out[u], IGNORED)
    out.flush()


def _activations(work: Work) -> dict[int, Soft]:
    """The activation maps of tagged frames; none in the first round."""
    if not work.activations.exists():
        return {}
    with np.load(work.activations) as stored:
        return dict(zip(stored["frames"].tolist(), stored["maps"], strict=True))


def _second(pseudo: Plane, student: Soft | None) -> Soft | None:
    """The second proposal: the student's mask, in the first round the pseudo-mask; None: nothing is known."""
    if student is not None:
        return student
    known = pseudo != IGNORED
    return (pseudo * known).astype(np.float32) / (IGNORED - 1) if known.any() else None


class TaughtFrames(TrainingFrames):
    """The training frames, of which labels may teach some. Without labels they are what `TrainingFrames` is."""

    _taught: tuple[int, ...] = ()

    def teach(self, labels: FrameLabels, every: int) -> None:
        """Keep frames 0, `every`, ... and the labeled ones.

        From now on `TAUGHT_SHARE` of each batch are frames that labels have a say in.
        """
        taught = {
            (s, t)
            for s, archive in enumerate(self.frames)
            for t in taught_frames(labels.get(archive.path.stem, {}), len(archive), every)
        }
        self.items = [(s, t) for s, t in self.items if t % every == 0 or (s, t) in taught]
        self._taught = tuple(i for i, item in enumerate(self.items) if item in taught)

    def _order(self, seed: int, iteration: int, size: int) -> list[int]:
        picked = super()._order(seed, iteration, size)
        if self._taught:
            drawn = np.random.default_rng([seed, iteration, 1])
            places = drawn.choice(size, max(1, round(TAUGHT_SHARE * size)), replace=False)
            for place in places:
                picked[place] = self._taught[int(drawn.integers(len(self._taught)))]
        return picked
