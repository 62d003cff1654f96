"""The table of scores (stage score): the method, its variants and the baselines, on the same frames.

Only sequences of the splits test and all are scored, and of those only frames with ground truth.
A frame with truth and without a prediction is wrong (all measures 0), never absent. Frames are
spread over processes in chunks, and read one by one: memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from backdrop.io.index import read_videos
from backdrop.io.masks import MaskArchive, read_threshold
from backdrop.measures import average_precision, box_iou, contains_center, statistics
from backdrop.run.processes import each
from backdrop.score.frame_scores import (
    BOXED,
    MEASURES,
    SCORE_CHUNK,
    VARIANCES,
    Chunk,
    Detections,
    ScoreFolders,
    Thresholds,
    flow_grid,
    mog2_grid,
    open_if_there,
    posed_detections,
    score_chunk,
    soft_grid,
)
from backdrop.thresholds import best_threshold
from backdrop.video.streamed import open_frames

RESULTS = {
    "method": ("method",),
    "method_raw": ("method_raw",),
    "method_best_threshold": ("method_best_threshold",),
    "d_and_s": ("d_and_s",),
    "d_and_s_raw": ("d_and_s_raw",),
    "d_and_s_best_threshold": ("d_and_s_best_threshold",),
    "flow_threshold": ("baselines", "flow_threshold"),
    "flow_best_threshold": ("baselines", "flow_best_threshold"),
    "mog2": ("baselines", "mog2"),
    "mog2_best_threshold": ("baselines", "mog2_best_threshold"),
}
"""What is scored, and where it stands in scores.json.

`method` is what ships. `d_and_s` is D and S alone, without the student, under whatever settings; a run of a preset
names it by the preset (p2022). `_raw` is before the CRF, `_best_threshold`, too, at the threshold with the best mean
J on the very frames that are scored: the papers' protocol.
"""

DROPPING_LAYOUTS = ("davis",)
"""Layouts whose first and last frame are not scored, as DAVIS2016 has it."""

MEANS = ("precision", "recall", "boundary_precision", "boundary_recall", "threshold")

SUMMARY = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", *MEANS)

FRAME_COLUMNS = ("sequence", "frame", "name", "result", *MEASURES, "threshold", "box_iou", "centre_hit", "confidence")

SEQUENCE_COLUMNS = ("sequence", "result", "frames", *SUMMARY, "mAP50", "box_hit50", "centre_hit")


@dataclass(frozen=True)
class Evaluation:
    """What the stage writes.

    Attributes:
        summary: scores.json. DAVIS's statistics are taken within each sequence, then averaged over
            sequences; mAP50, box_hit50 (the share of boxes with an overlap above one half, the manuscript of 2020's
            score) and centre_hit are over all frames with a subject.
        per_sequence: a row per sequence and result (`SEQUENCE_COLUMNS`).
        per_frame: a row per frame and result (`FRAME_COLUMNS`). Only results in `BOXED` fill the box columns.
    """

    summary: dict[str, Any]
    per_sequence: pd.DataFrame
    per_frame: pd.DataFrame


Boxes = dict[str, dict[str, Detections]]
"""Result (of `BOXED`) -> sequence -> its boxes."""


def score_all(folders: ScoreFolders, layout: str, workers: int = 0, preset: str = "none") -> Evaluation:
    """Score the final masks, the soft masks at two thresholds, D and S alone, and both baselines.

    Args:
        folders: of the archives. A missing archive of masks is wrong in all its frames. A missing archive of frames is
            an error.
        layout: of the data; it decides whether first and last frames count (`DROPPING_LAYOUTS`).
        workers: processes; 0: one per core.
        preset: names the rows of D and S; "none": they are called `d_and_s`.

    Returns:
        The tables; without any ground truth the summary holds the counts alone.

    Raises:
        BackdropError: an archive or threshold.json is damaged (it is named).
    """
    index = read_videos(folders.frames, usable=True)
    drop = layout in DROPPING_LAYOUTS
    names = index.loc[index["split"].isin(["test", "all"]), "sequence"].tolist()
    scored, counts = _scored_frames(folders, names, drop)
    header = {"protocol": "drop_first_last" if drop else "all_frames", **counts}
    posed = {name: found for name in names if (found := posed_detections(name, folders, drop)) is not None}
    if posed:
        header["boxes_of_poses"] = sum(len(found["method"].truth) for found in posed.values())
    if not scored and not posed:
        return Evaluation(header, pd.DataFrame(columns=SEQUENCE_COLUMNS), pd.DataFrame(columns=FRAME_COLUMNS))
    validation, _ = _scored_frames(folders, index.loc[index["split"] == "val", "sequence"], False)
    choices = {
        "method": read_threshold(folders.masks),
        "method_raw": read_threshold(folders.predictions),
        "d_and_s": read_threshold(folders.masks_paper),
        "d_and_s_raw": read_threshold(folders.predictions_paper),
    }
    thresholds = Thresholds(
        {result: threshold for result, (threshold, _) in choices.items()},
        _oracle(scored, folders, workers) if scored else {},
        best_threshold(_grids(flow_grid, "flow threshold", validation, (folders,), workers)) if validation else None,
    )
    rows, boxes = _score_frames(scored, folders, thresholds, workers)
    for result, by_name in boxes.items():
        for name, more in posed.items():
            by_name[name] = _concatenate([*([by_name[name]] if name in by_name else []), more[result]])
    per_frame = pd.DataFrame(rows, columns=list(FRAME_COLUMNS))
    per_sequence = _per_sequence(per_frame, boxes)
    labels = dict.fromkeys(RESULTS, "oracle: best mean J on the scored frames")
    labels |= {result: chosen_on for result, (_, chosen_on) in choices.items()} | {
        "flow_threshold": "otsu" if thresholds.flow is None else "validation",
        "mog2": "default",
    }
    summary = header | _summary(per_sequence, boxes, labels)
    return named_by_preset(Evaluation(summary, per_sequence, per_frame), preset)


def named_by_preset(evaluation: Evaluation, preset: str) -> Evaluation:
    """The same with the rows of D and S called by their preset; as it is where there is none."""
    if preset == "none":
        return evaluation
    names = {result: result.replace("d_and_s", preset) for result in RESULTS}
    tables = [frame.replace({"result": names}) for frame in (evaluation.per_sequence, evaluation.per_frame)]
    return Evaluation({names.get(key, key): value for key, value in evaluation.summary.items()}, *tables)


def _scored_frames(folders: ScoreFolders, names: Iterable[str], drop: bool) -> tuple[list[Chunk], dict[str, int]]:
    """Chunks of the frames that have truth and count, and the counts that head the summary."""
    chunks, sequences, without, missing = [], 0, 0, 0
    for name in names:
        archive = open_frames(folders.frames / f"{name}.zip")
        truth = [t for t in range(len(archive)) if archive.has_mask(t)]
        without += len(archive) - len(truth)
        if drop:
            truth = [t for t in truth if 0 < t < len(archive) - 1]
        sequences += bool(truth)
        masks = open_if_there(MaskArchive, folders.masks / f"{name}.zip")
        missing += sum(masks is None or not masks.has(t) for t in truth)
        chunks += [Chunk(name, tuple(truth[i : i + SCORE_CHUNK])) for i in range(0, len(truth), SCORE_CHUNK)]
    return chunks, {
        "sequences": sequences,
        "frames_scored": sum(len(chunk.frames) for chunk in chunks),
        "frames_without_truth": without,
        "frames_without_prediction": missing,
    }


def _oracle(scored: Sequence[Chunk], folders: ScoreFolders, workers: int) -> dict[str, float]:
    """The thresholds with the best mean J on the scored frames, as `Thresholds.oracle` has them."""

    def grids(function: Callable[..., np.ndarray], result: str, *rest: str) -> list[np.ndarray]:
        return _grids(function, f"oracle threshold of {result}", scored, (folders, *rest), workers)

    found = {result: best_threshold(grids(soft_grid, result, result)) for result in BOXED}
    found["flow"] = best_threshold(grids(flow_grid, "flow"))
    return found | {"mog2": best_threshold(grids(mog2_grid, "mog2"), VARIANCES)}


def _grids(
    function: Callable[..., np.ndarray], title: str, chunks: Sequence[Chunk], rest: tuple, workers: int
) -> list[np.ndarray]:
    """Per sequence, J of each frame at each threshold that `function` tries."""
    parts: dict[str, list[np.ndarray]] = {}
    for chunk, grid in zip(chunks, _each_chunk(function, chunks, rest, workers, title), strict=True):
        parts.setdefault(chunk.sequence, []).append(grid)
    return [np.concatenate(grids) for grids in parts.values()]


def _score_frames(
    chunks: Sequence[Chunk], folders: ScoreFolders, thresholds: Thresholds, workers: int
) -> tuple[list[dict[str, Any]], Boxes]:
    """Rows of the table of frames, and the boxes."""
    rows: list[dict[str, Any]] = []
    boxes: dict[str, dict[str, list[Detections]]] = {result: {} for result in BOXED}
    results = _each_chunk(score_chunk, chunks, (folders, thresholds), workers, "score")
    for chunk, (part, detections) in zip(chunks, results, strict=True):
        rows += part
        for result in BOXED:
            boxes[result].setdefault(chunk.sequence, []).append(detections[result])
    return rows, {
        result: {name: _concatenate(parts) for name, parts in found.items()} for result, found in boxes.items()
    }


def _concatenate(parts: Iterable[Detections]) -> Detections:
    return Detections(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _per_sequence(per_frame: pd.DataFrame, boxes: Boxes) -> pd.DataFrame:
    """A row per sequence and result: DAVIS's statistics, and box AP for results in `BOXED`."""
    rows = []
    for (sequence, result), part in per_frame.groupby(["sequence", "result"], sort=False):
        row = {"sequence": sequence, "result": result, "frames": len(part)}
        for measure in ("J", "F"):
            values = statistics(part[measure].to_numpy())
            row |= {f"{measure}_{key}": value for key, value in values._asdict().items()}
        row |= {key: part[key].mean() for key in MEANS}
        if result in BOXED:
            found = boxes[str(result)][str(sequence)]
            row |= {"mAP50": average_precision(*found)} | _box_means(found)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(SEQUENCE_COLUMNS))


def _box_means(found: Detections) -> dict[str, float]:
    """Means over the frames with a subject, a missing box being wrong; NaN where there is none."""
    pairs = [(box, truth) for box, truth in zip(found.boxes, found.truth, strict=True) if np.isfinite(truth).all()]
    if not pairs:
        return {"box_hit50": np.nan, "centre_hit": np.nan}
    there = [(box, truth) for box, truth in pairs if np.isfinite(box).all()]
    hits = sum(box_iou(box, truth) > 0.5 for box, truth in there), sum(contains_center(*pair) for pair in there)
    return {"box_hit50": hits[0] / len(pairs), "centre_hit": hits[1] / len(pairs)}


def _summary(per_sequence: pd.DataFrame, boxes: Boxes, labels: dict[str, str]) -> dict[str, Any]:
    """The nested dictionary of scores.json. Values that are NaN (no subject anywhere) are left out."""
    summary: dict[str, Any] = {}
    for result, place in RESULTS.items():
        means = per_sequence.loc[per_sequence["result"] == result, list(SUMMARY)].mean()
        values = {key: round(float(means[key]), 12) for key in SUMMARY}  # a mean of equal thresholds is that threshold
        if result in BOXED:
            found = _concatenate(boxes[result].values())
            values |= {"mAP50": average_precision(*found)} | _box_means(found)
        finite = {key: value for key, value in values.items() if np.isfinite(value)}
        if not finite:
            continue
        level = summary
        for key in place[:-1]:
            level = level.setdefault(key, {})
        level[place[-1]] = {**finite, "threshold_chosen_on": labels[result]}
    return summary


def _each_chunk(
    function: Callable[..., Any], chunks: Sequence[Chunk], rest: tuple, workers: int, title: str
) -> Iterable[Any]:
    """`function(chunk, *rest)` for each chunk in processes, in order, with progress on stderr."""
    tasks = [(chunk, *rest) for chunk in chunks]
    total = sum(len(chunk.frames) for chunk in chunks)
    with (
        closing(each(function, tasks, workers)) as results,
        tqdm(total=total, desc=title, unit="frame", disable=None) as progress,
    ):
        for chunk, result in zip(chunks, results, strict=True):
            yield result
            progress.update(len(chunk.frames))
