"""Thresholds and measures of a rival's soft masks on one sequence.

The threshold that counts is found without truth: Otsu's rule over the values of all soft masks of the sequence. (Ours
is the one that agrees best with the student's pseudo-masks; rivals have none.) The oracle beside it is the threshold of
the papers' grid that is best by the truth of the sequence itself: no method can have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import MaskArchive, Soft, resize_soft, split_truth
from backdrop.measures import boundary_f, jaccard
from backdrop.thresholds import best_threshold, jaccard_grid

GRAYS = 256


def sequence_otsu(masks: Iterable[Soft]) -> float:
    """Otsu's threshold in [0, 1] over all pixels of a sequence's soft masks; .5 where all have one value."""
    counts = np.zeros(GRAYS, np.int64)
    for mask in masks:
        counts += np.bincount(np.rint(mask * 255).astype(np.uint8).ravel(), minlength=GRAYS)
    if np.count_nonzero(counts) < 2:
        return 0.5
    # OpenCV's rule on one pixel per some thousands: the histogram is what it looks at.
    shares = np.ceil(counts / counts.sum() * 1e6).astype(np.int64)
    values = np.repeat(np.arange(GRAYS, dtype=np.uint8), shares).reshape(-1, 1)
    return float(cv2.threshold(values, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]) / 255


def score_sequence(frames: Path, masks: Path) -> dict[str, float]:
    """J and F of each rule, means over the frames that have truth.

    Args:
        frames, masks: the archives of one sequence; masks are of any one size.

    Returns:
        threshold, J, F; threshold_oracle, J_oracle, F_oracle; frames: how many have truth. Without truth only frames: 0
        and the threshold.

    Raises:
        BackdropError: an archive is damaged.
    """
    archive, found = FrameArchive(frames), MaskArchive(masks)
    softs = [found.gray(t).astype(np.float32) / np.float32(255) for t in range(len(archive))]
    level = sequence_otsu(softs)
    shown = [t for t in range(len(archive)) if archive.has_mask(t)]
    if not shown:
        return {"threshold": level, "frames": 0}
    rows, truths = [], []
    for t in shown:
        truth, void = split_truth(archive.mask(t))  # type: ignore[arg-type]
        soft = resize_soft(softs[t], truth.shape[::-1])
        rows.append(jaccard_grid(soft, truth, void))
        truths.append((soft, truth, void))
    oracle = best_threshold([np.array(rows)])
    scores: dict[str, float] = {"frames": len(shown)}
    for suffix, used in (("", level), ("_oracle", oracle)):
        scores[f"threshold{suffix}"] = used
        scores[f"J{suffix}"] = float(np.mean([jaccard(s > used, truth, void) for s, truth, void in truths]))
        scores[f"F{suffix}"] = float(np.mean([boundary_f(s > used, truth, void) for s, truth, void in truths]))
    return scores
