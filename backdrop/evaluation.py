"""The table of scores (stage score): the method, its variants and the baselines, on the same frames.

Only sequences of the splits test and all are scored, and of those only frames with ground truth.
A frame with truth and without a prediction is wrong (all measures 0), never absent. Frames are
spread over processes in chunks, and looked at one by one: memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from backdrop.baselines import MOG2_VARIANCE, Mog2, flow_mask, flow_soft, otsu
from backdrop.chunks import kept
from backdrop.datasets import read_index
from backdrop.flow import FlowArchive
from backdrop.homography import load_homographies
from backdrop.masks import (
    Mask,
    MaskArchive,
    Predictions,
    Soft,
    box_from_mask,
    read_threshold,
    resize_mask,
    resize_soft,
    split_truth,
)
from backdrop.processes import each
from backdrop.scores import (
    GRID,
    average_precision,
    best_threshold,
    boundary_f,
    box_iou,
    contains_center,
    jaccard,
    jaccard_grid,
    precision_recall,
    statistics,
)
from backdrop.video import FrameArchive

RESULTS = {
    "method": ("method",),
    "method_raw": ("method_raw",),
    "method_best_threshold": ("method_best_threshold",),
    "method_paper": ("method_paper",),
    "method_paper_raw": ("method_paper_raw",),
    "flow_threshold": ("baselines", "flow_threshold"),
    "mog2": ("baselines", "mog2"),
}
"""What is scored, and where it stands in scores.json. `method` is what ships; `method_paper` is D and S alone, without
the student (the papers' method); `_raw` is before the CRF."""
BOXED = ("method", "method_paper")
"""Results that have a box: what `Segmenter.predict` gives, and D's own."""
DROPPING_LAYOUTS = ("davis",)
"""Layouts whose first and last frame are not scored, as DAVIS2016 has it."""
MEASURES = ("J", "F", "precision", "recall")
SUMMARY = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", "precision", "recall", "threshold")
FRAME_COLUMNS = ("sequence", "frame", "name", "result", *MEASURES, "threshold", "box_iou", "centre_hit", "confidence")
SEQUENCE_COLUMNS = ("sequence", "result", "frames", *SUMMARY, "mAP50", "centre_hit")
CHUNK = 24
"""Frames a task: MOG2's window reaches 40 frames to either side, and each task decodes it anew."""


@dataclass(frozen=True)
class Evaluation:
    """What the stage writes.

    Attributes:
        summary: scores.json. DAVIS's statistics are taken within each sequence, then averaged over
            sequences; mAP50 and centre_hit are over all frames with a subject.
        per_sequence: a row a sequence and result (`SEQUENCE_COLUMNS`).
        per_frame: a row a frame and result (`FRAME_COLUMNS`); the box columns with results in `BOXED` only.
    """

    summary: dict[str, Any]
    per_sequence: pd.DataFrame
    per_frame: pd.DataFrame


@dataclass(frozen=True)
class Folders:
    """Where the archives of the stages lie; a sequence's file in each bears its name."""

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
    """chosen: by result, what the stages segment (before the CRF) and refine chose; oracle: best on the scored
    frames, of what ships before the CRF; flow: None means Otsu's in each frame."""

    chosen: dict[str, float]
    oracle: float
    flow: float | None


class Detections(NamedTuple):
    """Boxes of a chunk's frames, NaN where there is none: predicted (N, 4), confidence (N,), truth (N, 4)."""

    boxes: np.ndarray
    confidence: np.ndarray
    truth: np.ndarray


Boxes = dict[str, dict[str, Detections]]
"""Result (of `BOXED`) -> sequence -> its boxes."""


def score_all(folders: Folders, layout: str, workers: int = 0) -> Evaluation:
    """Score the final masks, the soft masks at two thresholds, the papers' method, and both baselines.

    Args:
        folders: of the archives. A missing archive is wrong in all its frames; missing frames are an error.
        layout: of the data; it decides whether first and last frames count (`DROPPING_LAYOUTS`).
        workers: processes; 0: one a core.

    Returns:
        The tables; without any ground truth the summary holds the counts alone.

    Raises:
        BackdropError: an archive or threshold.json is damaged (it is named).
    """
    index = read_index(folders.frames, usable=True)
    drop = layout in DROPPING_LAYOUTS
    scored, counts = _scored_frames(folders, index.loc[index["split"].isin(["test", "all"]), "sequence"], drop)
    header = {"protocol": "drop_first_last" if drop else "all_frames", **counts}
    if not scored:
        return Evaluation(header, pd.DataFrame(columns=SEQUENCE_COLUMNS), pd.DataFrame(columns=FRAME_COLUMNS))
    validation, _ = _scored_frames(folders, index.loc[index["split"] == "val", "sequence"], False)
    choices = {
        "method": read_threshold(folders.masks),
        "method_raw": read_threshold(folders.predictions),
        "method_paper": read_threshold(folders.masks_paper),
        "method_paper_raw": read_threshold(folders.predictions_paper),
    }
    thresholds = Thresholds(
        {result: threshold for result, (threshold, _) in choices.items()},
        _grid_search(_soft_grid, "oracle threshold", scored, folders, workers),
        _grid_search(_flow_grid, "flow threshold", validation, folders, workers) if validation else None,
    )
    rows, boxes = _score(scored, folders, thresholds, workers)
    per_frame = pd.DataFrame(rows, columns=list(FRAME_COLUMNS))
    per_sequence = _per_sequence(per_frame, boxes)
    labels = {result: chosen_on for result, (_, chosen_on) in choices.items()} | {
        "method_best_threshold": "oracle: best mean J on the scored frames",
        "flow_threshold": "otsu" if thresholds.flow is None else "validation",
        "mog2": "default",
    }
    return Evaluation(header | _summary(per_frame, per_sequence, boxes, labels), per_sequence, per_frame)


def _scored_frames(folders: Folders, names: Iterable[str], drop: bool) -> tuple[list[Chunk], dict[str, int]]:
    """Chunks of the frames that have truth and count, and the counts that head the summary."""
    chunks, sequences, without, missing = [], 0, 0, 0
    for name in names:
        archive = FrameArchive(folders.frames / f"{name}.zip")
        truth = [t for t in range(len(archive)) if archive.has_mask(t)]
        without += len(archive) - len(truth)
        if drop:
            truth = [t for t in truth if 0 < t < len(archive) - 1]
        sequences += bool(truth)
        masks = _open(MaskArchive, folders.masks / f"{name}.zip")
        missing += sum(masks is None or not masks.has(t) for t in truth)
        chunks += [Chunk(name, tuple(truth[i : i + CHUNK])) for i in range(0, len(truth), CHUNK)]
    return chunks, {
        "sequences": sequences,
        "frames_scored": sum(len(chunk.frames) for chunk in chunks),
        "frames_without_truth": without,
        "frames_without_prediction": missing,
    }


def _open(kind: Callable[[Path], Any], path: Path) -> Any:
    """The archive, or None where there is none: what is missing is wrong, not an error."""
    return kept(kind, path) if path.is_file() else None


# Thresholds -------------------------------------------------------------------------------------------


def _grid_search(
    function: Callable[[Chunk, Folders], np.ndarray],
    title: str,
    chunks: Sequence[Chunk],
    folders: Folders,
    workers: int,
) -> float:
    """The threshold of the grid with the best mean J over the sequences."""
    parts: dict[str, list[np.ndarray]] = {}
    for chunk, grid in zip(chunks, _each(function, chunks, (folders,), workers, title), strict=True):
        parts.setdefault(chunk.sequence, []).append(grid)
    return best_threshold([np.concatenate(grids) for grids in parts.values()])


def _soft_grid(chunk: Chunk, folders: Folders) -> np.ndarray:
    """J of the soft masks at every threshold of the grid, (frames, thresholds)."""
    frames = kept(FrameArchive, folders.frames / f"{chunk.sequence}.zip")
    soft = _open(Predictions, folders.predictions / f"{chunk.sequence}.zip")
    rows = np.zeros((len(chunk.frames), len(GRID)))
    for row, t in zip(rows, chunk.frames, strict=True):
        if soft is not None and soft.has(t):
            truth, void = _truth(frames, t)
            row[:] = jaccard_grid(resize_soft(soft.soft(t), truth.shape[::-1]), truth, void)
    return rows


def _flow_grid(chunk: Chunk, folders: Folders) -> np.ndarray:
    """J of the cleaned flow masks at every threshold of the grid, (frames, thresholds)."""
    frames = kept(FrameArchive, folders.frames / f"{chunk.sequence}.zip")
    flow = _open(FlowArchive, folders.flow / f"{chunk.sequence}.zip")
    rows = np.zeros((len(chunk.frames), len(GRID)))
    for row, t in zip(rows, chunk.frames, strict=True):
        if flow is not None and t < len(flow):
            truth, void = _truth(frames, t)
            soft = flow_soft(*flow.read(t))
            row[:] = [jaccard(resize_mask(flow_mask(soft, float(x)), truth.shape[::-1]), truth, void) for x in GRID]
    return rows


def _truth(frames: FrameArchive, t: int) -> tuple[Mask, Mask | None]:
    stored = frames.mask(t)
    assert stored is not None  # chunks hold frames with truth only
    return split_truth(stored)


# Frames -----------------------------------------------------------------------------------------------


def _score(
    chunks: Sequence[Chunk], folders: Folders, thresholds: Thresholds, workers: int
) -> tuple[list[dict[str, Any]], Boxes]:
    """Rows of the table of frames, and the boxes."""
    rows: list[dict[str, Any]] = []
    boxes: dict[str, dict[str, list[Detections]]] = {result: {} for result in BOXED}
    results = _each(_score_chunk, chunks, (folders, thresholds), workers, "score")
    for chunk, (part, detections) in zip(chunks, results, strict=True):
        rows += part
        for result in BOXED:
            boxes[result].setdefault(chunk.sequence, []).append(detections[result])
    return rows, {
        result: {name: _concatenate(parts) for name, parts in found.items()} for result, found in boxes.items()
    }


def _concatenate(parts: Iterable[Detections]) -> Detections:
    return Detections(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _score_chunk(
    chunk: Chunk, folders: Folders, thresholds: Thresholds
) -> tuple[list[dict[str, Any]], dict[str, Detections]]:
    frames = kept(FrameArchive, folders.frames / f"{chunk.sequence}.zip")
    rivals = _Rivals(chunk.sequence, folders, frames, thresholds)
    count = len(chunk.frames)
    detections = {
        result: Detections(np.full((count, 4), np.nan), np.full(count, np.nan), np.full((count, 4), np.nan))
        for result in BOXED
    }
    rows = []
    for i, t in enumerate(chunk.frames):
        truth, void = _truth(frames, t)
        boxes = {}
        for result in BOXED:
            boxes[result] = _detection(rivals.soft[result], t, truth if void is None else truth & ~void)
            for target, value in zip(detections[result], boxes[result], strict=True):
                target[i] = value
        for result, (mask, threshold) in rivals.masks(t, truth.shape[::-1]).items():
            row = {"sequence": chunk.sequence, "frame": t, "name": frames.names[t], "result": result}
            row |= _measures(mask, truth, void) | {"threshold": threshold}
            rows.append(row | (_box_measures(*boxes[result]) if result in BOXED else {}))
    return rows, detections


class _Rivals:
    """All masks of a sequence that are scored."""

    def __init__(self, sequence: str, folders: Folders, frames: FrameArchive, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.final: dict[str, MaskArchive | None] = {
            "method": _open(MaskArchive, folders.masks / f"{sequence}.zip"),
            "method_paper": _open(MaskArchive, folders.masks_paper / f"{sequence}.zip"),
        }
        self.soft: dict[str, Predictions | None] = {
            "method": _open(Predictions, folders.predictions / f"{sequence}.zip"),
            "method_paper": _open(Predictions, folders.predictions_paper / f"{sequence}.zip"),
        }
        self.flow: FlowArchive | None = _open(FlowArchive, folders.flow / f"{sequence}.zip")
        homographies = _open(load_homographies, folders.homographies / f"{sequence}.npz")
        self.mog2 = None if homographies is None else Mog2(frames, homographies)

    def masks(self, t: int, size: tuple[int, int]) -> dict[str, tuple[Mask | None, float]]:
        """Result -> (mask at size (width, height), threshold); None where it is missing."""
        chosen, oracle = self.thresholds.chosen, self.thresholds.oracle
        raw, raw_paper = chosen["method_raw"], chosen["method_paper_raw"]
        soft, paper = self._soft("method", t, size), self._soft("method_paper", t, size)
        moving, used = self._moving(t)
        subtracted = None if self.mog2 is None else self.mog2.mask(t)
        return {
            "method": (self._final("method", t, size), chosen["method"]),
            "method_raw": (None if soft is None else soft > raw, raw),
            "method_best_threshold": (None if soft is None else soft > oracle, oracle),
            "method_paper": (self._final("method_paper", t, size), chosen["method_paper"]),
            "method_paper_raw": (None if paper is None else paper > raw_paper, raw_paper),
            "flow_threshold": (None if moving is None else resize_mask(moving, size), used),
            "mog2": (None if subtracted is None else resize_mask(subtracted, size), MOG2_VARIANCE),
        }

    def _final(self, result: str, t: int, size: tuple[int, int]) -> Mask | None:
        archive = self.final[result]
        return resize_mask(archive.gray(t) > 127, size) if archive is not None and archive.has(t) else None

    def _soft(self, result: str, t: int, size: tuple[int, int]) -> Soft | None:
        archive = self.soft[result]
        return resize_soft(archive.soft(t), size) if archive is not None and archive.has(t) else None

    def _moving(self, t: int) -> tuple[Mask | None, float]:
        """The mask of thresholded flow at the stored frame's size, and its threshold."""
        given = self.thresholds.flow
        if self.flow is None or t >= len(self.flow):
            return None, np.nan if given is None else given
        flow, valid = self.flow.read(t)
        speed = flow_soft(flow, valid)
        used = otsu(speed, valid) if given is None else given
        return flow_mask(speed, used), used


def _measures(mask: Mask | None, truth: Mask, void: Mask | None) -> dict[str, float]:
    if mask is None:
        return dict.fromkeys(MEASURES, 0.0)
    precision, recall = precision_recall(mask, truth, void)
    values = (jaccard(mask, truth, void), boundary_f(mask, truth, void), precision, recall)
    return dict(zip(MEASURES, values, strict=True))


def _detection(soft: Predictions | None, t: int, truth: Mask) -> tuple[np.ndarray, float, np.ndarray]:
    """Predicted box, its confidence and the truth's box; NaN for what is not there."""
    nothing = np.full(4, np.nan)
    subject = box_from_mask(truth)
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


# Tables -----------------------------------------------------------------------------------------------


def _per_sequence(per_frame: pd.DataFrame, boxes: Boxes) -> pd.DataFrame:
    rows = []
    for (sequence, result), part in per_frame.groupby(["sequence", "result"], sort=False):
        row = {"sequence": sequence, "result": result, "frames": len(part)}
        for measure in ("J", "F"):
            values = statistics(part[measure].to_numpy())
            row |= {f"{measure}_{key}": value for key, value in values._asdict().items()}
        row |= {key: part[key].mean() for key in ("precision", "recall", "threshold")}
        if result in BOXED:
            found = boxes[str(result)][str(sequence)]
            row |= {"mAP50": average_precision(*found), "centre_hit": part["centre_hit"].mean()}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(SEQUENCE_COLUMNS))


def _summary(
    per_frame: pd.DataFrame, per_sequence: pd.DataFrame, boxes: Boxes, labels: dict[str, str]
) -> dict[str, Any]:
    """The nested dictionary of scores.json; what is not a number (no subject anywhere) is left out."""
    summary: dict[str, Any] = {}
    for result, place in RESULTS.items():
        means = per_sequence.loc[per_sequence["result"] == result, list(SUMMARY)].mean()
        values = {key: round(float(means[key]), 12) for key in SUMMARY}  # a mean of equal thresholds is that threshold
        if result in BOXED:
            values["mAP50"] = average_precision(*_concatenate(boxes[result].values()))
            values["centre_hit"] = float(per_frame.loc[per_frame["result"] == result, "centre_hit"].mean())
        level = summary
        for key in place[:-1]:
            level = level.setdefault(key, {})
        kept = {key: value for key, value in values.items() if np.isfinite(value)}
        level[place[-1]] = {**kept, "threshold_chosen_on": labels[result]}
    return summary


# Processes --------------------------------------------------------------------------------------------


def _each(
    function: Callable[..., Any], chunks: Sequence[Chunk], rest: tuple, workers: int, title: str
) -> Iterable[Any]:
    """`function(chunk, *rest)` for each chunk in processes, in order, with progress on stderr."""
    calls = [(chunk, *rest) for chunk in chunks]
    total = sum(len(chunk.frames) for chunk in chunks)
    with (
        closing(each(function, calls, workers)) as results,
        tqdm(total=total, desc=title, unit="frame", disable=None) as progress,
    ):
        for chunk, result in zip(chunks, results, strict=True):
            yield result
            progress.update(len(chunk.frames))
