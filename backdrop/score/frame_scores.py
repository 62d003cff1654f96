"""The scores of frames: the method, its variants and the baselines, on the same frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import (
    Box,
    Mask,
    MaskArchive,
    Predictions,
    Soft,
    box_from_mask,
    resize_mask,
    resize_soft,
    split_truth,
)
from backdrop.io.pose_boxes import pose_boxes
from backdrop.measures import (
    boundary_precision_recall,
    box_iou,
    contains_center,
    harmonic_mean,
    jaccard,
    precision_recall,
)
from backdrop.motion.blobs import otsu
from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.homography import load_homographies
from backdrop.motion.mog2 import MOG2_VARIANCE, Mog2
from backdrop.motion.moving import flow_mask, flow_soft
from backdrop.run.chunks import cached_open
from backdrop.thresholds import GRID, jaccard_grid
from backdrop.video.streamed import StreamedFrames, open_frames

BOXED = ("method", "d_and_s")
"""Results that have a box: what `Predictor.predict` gives, and the box of D alone."""

NEED_ALL_FRAMES = ("flow_threshold", "flow_best_threshold", "mog2", "mog2_best_threshold")
"""Results that need flow or homographies of all frames. Videos that are not stored (`data.budget`) have neither."""

MEASURES = ("J", "F", "precision", "recall", "boundary_precision", "boundary_recall")

VARIANCES = np.array([4.0, 9.0, 16.0, 36.0, 64.0, 144.0, 400.0])
"""MOG2's thresholds that are tried for its best: 2 to 20 standard deviations."""

SCORE_CHUNK = 24
"""Frames per task: MOG2's window reaches 40 frames to either side, and each task decodes it anew."""


@dataclass(frozen=True)
class ScoreFolders:
    """Where the archives of the stages lie. A sequence's file in each folder bears its name."""

    frames: Path
    predictions: Path
    masks: Path
    predictions_paper: Path
    masks_paper: Path
    flow: Path
    homographies: Path


class Chunk(NamedTuple):
    """Some frames of a sequence that have ground truth."""

    sequence: str
    frames: tuple[int, ...]


class Thresholds(NamedTuple):
    """Thresholds in [0, 1].

    chosen: by result, what the stages segment (before the CRF) and refine chose.
    oracle: the best on the scored frames: of each of `BOXED` before the CRF, of `flow`, and of `mog2` (of `VARIANCES`).
    flow: None means that of Otsu's method in each frame.
    """

    chosen: dict[str, float]
    oracle: dict[str, float]
    flow: float | None


class Detections(NamedTuple):
    """Boxes of a chunk's N frames, NaN where there is no box: predicted (N, 4), confidence (N,), truth (N, 4)."""

    boxes: np.ndarray
    confidence: np.ndarray
    truth: np.ndarray


def open_if_there(kind: Callable[[Path], Any], path: Path) -> Any:
    """The archive, or None where the file is missing: a missing mask counts as wrong, it is not an error."""
    return cached_open(kind, path) if path.is_file() else None


def soft_grid(chunk: Chunk, folders: ScoreFolders, result: str) -> np.ndarray:
    """J of the soft masks of a result of `BOXED` at every threshold of the grid, (frames, thresholds)."""
    frames = cached_open(open_frames, folders.frames / f"{chunk.sequence}.zip")
    soft = open_if_there(Predictions, _soft_folder(folders, result) / f"{chunk.sequence}.zip")
    rows = np.zeros((len(chunk.frames), len(GRID)))
    for row, t in zip(rows, chunk.frames, strict=True):
        if soft is not None and soft.has(t):
            truth, void = _truth(frames, t)
            row[:] = jaccard_grid(resize_soft(soft.soft(t), truth.shape[::-1]), truth, void)
    return rows


def flow_grid(chunk: Chunk, folders: ScoreFolders) -> np.ndarray:
    """J of the cleaned flow masks at every threshold of the grid, (frames, thresholds)."""
    frames = cached_open(open_frames, folders.frames / f"{chunk.sequence}.zip")
    flow = open_if_there(FlowArchive, folders.flow / f"{chunk.sequence}.zip")
    rows = np.zeros((len(chunk.frames), len(GRID)))
    for row, t in zip(rows, chunk.frames, strict=True):
        if flow is not None and t < len(flow):
            truth, void = _truth(frames, t)
            soft = flow_soft(*flow.read(t))
            row[:] = [jaccard(resize_mask(flow_mask(soft, float(x)), truth.shape[::-1]), truth, void) for x in GRID]
    return rows


def mog2_grid(chunk: Chunk, folders: ScoreFolders) -> np.ndarray:
    """J of MOG2 at each of `VARIANCES`, (frames, variances)."""
    frames = cached_open(open_frames, folders.frames / f"{chunk.sequence}.zip")
    homographies = open_if_there(load_homographies, folders.homographies / f"{chunk.sequence}.npz")
    rows = np.zeros((len(chunk.frames), len(VARIANCES)))
    if homographies is None:
        return rows
    mog2 = Mog2(frames, homographies, frames.region)
    for row, t in zip(rows, chunk.frames, strict=True):
        truth, void = _truth(frames, t)
        masks = mog2.masks(t, [float(variance) for variance in VARIANCES])
        row[:] = [jaccard(resize_mask(mask, truth.shape[::-1]), truth, void) for mask in masks]
    return rows


def _soft_folder(folders: ScoreFolders, result: str) -> Path:
    return {"method": folders.predictions, "d_and_s": folders.predictions_paper}[result]


def _truth(frames: FrameArchive, t: int) -> tuple[Mask, Mask | None]:
    stored = frames.mask(t)
    assert stored is not None  # chunks hold frames with truth only
    return split_truth(stored)


def score_chunk(
    chunk: Chunk, folders: ScoreFolders, thresholds: Thresholds
) -> tuple[list[dict[str, Any]], dict[str, Detections]]:
    """Rows of the table of frames, one per frame and result, and the boxes of each result in `BOXED`."""
    frames = cached_open(open_frames, folders.frames / f"{chunk.sequence}.zip")
    scored = ScoredMasks(chunk.sequence, folders, frames, thresholds)
    count = len(chunk.frames)
    detections = {
        result: Detections(np.full((count, 4), np.nan), np.full(count, np.nan), np.full((count, 4), np.nan))
        for result in BOXED
    }
    rows = []
    posed = pose_boxes(frames.path)
    for i, t in enumerate(chunk.frames):
        truth, void = _truth(frames, t)
        subject = None if posed is None or not np.isfinite(posed[t]).all() else posed[t]
        if subject is None:
            subject = box_from_mask(truth if void is None else truth & ~void)
        boxes = {}
        for result in BOXED:
            boxes[result] = _detection(scored.soft[result], t, subject)
            for target, value in zip(detections[result], boxes[result], strict=True):
                target[i] = value
        for result, (mask, threshold) in scored.masks(t, truth.shape[::-1]).items():
            row = {"sequence": chunk.sequence, "frame": t, "name": frames.names[t], "result": result}
            row |= _measures(mask, truth, void) | {"threshold": threshold}
            rows.append(row | (_box_measures(*boxes[result]) if result in BOXED else {}))
    return rows, detections


class ScoredMasks:
    """All masks of a sequence that are scored: those of the method, of its variants, and of the baselines."""

    def __init__(self, sequence: str, folders: ScoreFolders, frames: FrameArchive, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.streamed = isinstance(frames, StreamedFrames)
        self.final: dict[str, MaskArchive | None] = {
            "method": open_if_there(MaskArchive, folders.masks / f"{sequence}.zip"),
            "d_and_s": open_if_there(MaskArchive, folders.masks_paper / f"{sequence}.zip"),
        }
        self.soft: dict[str, Predictions | None] = {
            result: open_if_there(Predictions, _soft_folder(folders, result) / f"{sequence}.zip") for result in BOXED
        }
        self.flow: FlowArchive | None = open_if_there(FlowArchive, folders.flow / f"{sequence}.zip")
        homographies = open_if_there(load_homographies, folders.homographies / f"{sequence}.npz")
        self.mog2 = None if homographies is None else Mog2(frames, homographies, frames.region)

    def masks(self, t: int, size: tuple[int, int]) -> dict[str, tuple[Mask | None, float]]:
        """Result -> (mask at size (width, height), threshold); None where it is missing."""
        chosen, oracle = self.thresholds.chosen, self.thresholds.oracle
        found: dict[str, tuple[Mask | None, float]] = {}
        for result in BOXED:
            soft = self._soft(result, t, size)
            found[result] = (self._final(result, t, size), chosen[result])
            levels = {f"{result}_raw": chosen[f"{result}_raw"], f"{result}_best_threshold": oracle[result]}
            for name, level in levels.items():
                found[name] = (None if soft is None else soft > level, level)
        for name, given in {"flow_threshold": self.thresholds.flow, "flow_best_threshold": oracle["flow"]}.items():
            moving, used = self._moving(t, given)
            found[name] = (None if moving is None else resize_mask(moving, size), used)
        levels = {"mog2": MOG2_VARIANCE, "mog2_best_threshold": oracle["mog2"]}
        masks = [None] * len(levels) if self.mog2 is None else self.mog2.masks(t, list(levels.values()))
        for (name, level), mask in zip(levels.items(), masks, strict=True):
            found[name] = (None if mask is None else resize_mask(mask, size), level)
        return {result: mask for result, mask in found.items() if not (self.streamed and result in NEED_ALL_FRAMES)}

    def _final(self, result: str, t: int, size: tuple[int, int]) -> Mask | None:
        archive = self.final[result]
        return resize_mask(archive.gray(t) > 127, size) if archive is not None and archive.has(t) else None

    def _soft(self, result: str, t: int, size: tuple[int, int]) -> Soft | None:
        archive = self.soft[result]
        return resize_soft(archive.soft(t), size) if archive is not None and archive.has(t) else None

    def _moving(self, t: int, given: float | None) -> tuple[Mask | None, float]:
        """The mask of thresholded flow at the stored frame's size, and its threshold; None: that of Otsu's method."""
        if self.flow is None or t >= len(self.flow):
            return None, np.nan if given is None else given
        flow, valid = self.flow.read(t)
        speed = flow_soft(flow, valid)
        used = otsu(speed, valid) if given is None else given
        return flow_mask(speed, used), used


def _measures(mask: Mask | None, truth: Mask, void: Mask | None) -> dict[str, float]:
    if mask is None:
        return dict.fromkeys(MEASURES, 0.0)
    pixels, outline = precision_recall(mask, truth, void), boundary_precision_recall(mask, truth, void)
    values = (jaccard(mask, truth, void), harmonic_mean(*outline), *pixels, *outline)
    return dict(zip(MEASURES, values, strict=True))


def posed_detections(sequence: str, folders: ScoreFolders, drop: bool) -> dict[str, Detections] | None:
    """For each result of `BOXED` its boxes in the frames that have a pose and no mask; None: there are none.

    Args:
        drop: the first and the last frame do not count.
    """
    frames = FrameArchive(folders.frames / f"{sequence}.zip")
    posed = pose_boxes(frames.path)
    if posed is None:
        return None
    ends = (0, len(frames) - 1) if drop else ()
    counted = [
        t for t in range(len(frames)) if np.isfinite(posed[t]).all() and not frames.has_mask(t) and t not in ends
    ]
    if not counted:
        return None
    found = {}
    for result in BOXED:
        soft = open_if_there(Predictions, _soft_folder(folders, result) / f"{sequence}.zip")
        parts = [_detection(soft, t, posed[t]) for t in counted]
        found[result] = Detections(*(np.stack([np.asarray(part[k], np.float64) for part in parts]) for k in range(3)))
    return found


def _detection(soft: Predictions | None, t: int, subject: Box | None) -> tuple[np.ndarray, float, np.ndarray]:
    """Predicted box (4,), its confidence, and the box of the truth (4,); NaN for what is missing."""
    nothing = np.full(4, np.nan)
    if soft is None or t >= len(soft.box):
        return nothing, np.nan, nothing if subject is None else subject
    return soft.box[t], soft.confidence(t), nothing if subject is None else subject


def _box_measures(box: np.ndarray, confidence: float, subject: np.ndarray) -> dict[str, float]:
    """Overlap and hit of a box; 0 for a subject without a box, empty for a frame without a subject."""
    if not np.isfinite(subject).all():
        return {"confidence": confidence}
    if not np.isfinite(box).all():
        return {"box_iou": 0.0, "centre_hit": 0.0}
    hit = float(contains_center(box, subject))
    return {"box_iou": box_iou(box, subject), "centre_hit": hit, "confidence": confidence}
