"""Whether the CRF is worth its time on this footage (`crf.enabled: auto`), told without ground truth.

The judge is what the student learned last: the pseudo-masks of its training frames. They have passed a CRF themselves,
and still it does not always win: where it moves outlines away from them, it is left out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from backdrop.crf.dense import refine
from backdrop.crf.findings import best_finding
from backdrop.crf.parameters import CRFParams
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.index import trained_sequences
from backdrop.io.masks import MaskArchive, Predictions, read_threshold, resize_mask, split_truth
from backdrop.measures import jaccard
from backdrop.refine.stage import RefineFolders, predicted_counts
from backdrop.run.chunks import spread
from backdrop.run.processes import each
from backdrop.video.streamed import open_frames

LONG = 30
"""Core minutes of the CRF that are announced."""

COMPARED = 60
"""Frames of all sequences together by which it is told, equally many of each that takes part."""


class CRFWorth(NamedTuple):
    """Mean J of masks with the pseudo-masks, without the CRF and with it, over so many frames.

    seconds: core seconds of the CRF, a frame.
    """

    without: float
    refined: float
    frames: int
    seconds: float

    @property
    def pays(self) -> bool:
        """Whether the CRF brings masks nearer to the pseudo-masks."""
        return self.refined > self.without

    def words(self) -> str:
        """In a line."""
        found = f"J {self.without:.3f} without it, {self.refined:.3f} with it, {self.frames} frames"
        return f"the CRF is {'kept' if self.pays else 'left out'}: agreement with the pseudo-masks, {found}"

    def price(self, frames: int) -> str | None:
        """In a line, what it will take on so many frames; None where that is soon over or it is left out."""
        minutes = self.seconds * frames / 60
        if not self.pays or minutes < LONG:
            return None
        time = f"{minutes:.0f} core minutes" if minutes < 120 else f"{minutes / 60:.0f} core hours"
        return f"it will take about {time} for {frames:,} frames; crf.enabled=false goes without it"


def crf_worth(folders: RefineFolders, pseudo_masks: Path, params: CRFParams, workers: int = 0) -> CRFWorth | None:
    """Compare masks before and after the CRF with the pseudo-masks, at the threshold of the stage segment.

    Args:
        pseudo_masks: folder of archives, a file a sequence that was trained on.
        workers: processes; 0: one per core.

    Returns:
        None: no frame has both a prediction and a pseudo-mask, as where no student was trained.

    Raises:
        BackdropError: threshold.json is missing, or an archive is damaged (it is named).
    """
    threshold, tasks = read_threshold(folders.predictions)[0], []
    for name, video in trained_sequences(folders.frames).items():
        places = pseudo_masks / f"{name}.zip", folders.predictions / f"{video}.zip"
        if all(place.is_file() for place in places):
            tasks.append((folders.frames / f"{name}.zip", folders.frames / f"{video}.zip", *places))
    rest = max(1, COMPARED // max(1, len(tasks))), params, threshold
    found = each(_agreement, [(task, *rest) for task in spread(tasks, COMPARED)], workers)
    rows = np.concatenate([np.zeros((0, 3)), *found])
    if not len(rows):
        return None
    without, refined, seconds = rows.mean(axis=0)
    return CRFWorth(float(without), float(refined), len(rows), float(seconds))


def as_decided(folders: RefineFolders, pseudo_masks: Path, params: CRFParams, workers: int = 0) -> CRFParams:
    """The parameters with true or false in place of `enabled: auto`; says why. Where there is no telling it is true.

    Args, Raises: as `crf_worth`.
    """
    if params.enabled != "auto":
        return params
    worth = crf_worth(folders, pseudo_masks, params, workers)
    said = "the CRF is kept: no frame has a pseudo-mask to compare with" if worth is None else worth.words()
    tqdm.write(f"{folders.masks}: {said}")
    masks = sum(len(MaskArchive(folders.predictions / f"{name}.zip")) for name in predicted_counts(folders))
    if worth is not None and (price := worth.price(masks)):
        tqdm.write(f"{folders.masks}: {price}")
    return params.model_copy(update={"enabled": worth is None or worth.pays})


def _agreement(places: tuple[Path, Path, Path, Path], most: int, params: CRFParams, threshold: float) -> np.ndarray:
    """J without and with the CRF, and its core seconds: (frames, 3).

    A burst's frames bear the names they have in its video.
    """
    stored, segmented, pseudo_masks, predictions = places
    images, masks, soft = FrameArchive(stored), MaskArchive(pseudo_masks), Predictions(predictions)
    place = {name: t for t, name in enumerate(open_frames(segmented).names)}
    there = [t for t, name in enumerate(images.names) if masks.has(t) and name in place and soft.has(place[name])]
    rows = []
    for t in spread(there, most):
        number = place[images.names[t]]
        probability, found = soft.soft(number), best_finding(soft.box[number], soft.p[number])
        plain = probability > threshold
        mask, void = split_truth(masks.gray(t))
        size = (plain.shape[1], plain.shape[0])
        mask, void = resize_mask(mask, size), None if void is None else resize_mask(void, size)
        image, begun = images.image(t), time.process_time()
        refined = refine(image, probability, threshold, params, found)
        seconds = time.process_time() - begun
        rows.append([*(jaccard(one, mask, void) for one in (plain, refined)), seconds])
    return np.array(rows).reshape(-1, 3)
