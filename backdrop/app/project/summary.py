"""The last screen of `backdrop train`: how good or how sure the masks are, which videos to look at, where all lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from backdrop.doubts import UNSURE, sureness
from backdrop.errors import BackdropError
from backdrop.io.index import is_streamed, read_videos, trained_frames
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.report.scores import j_mean, read_scores, result_of
from backdrop.run.chunks import spread

PATHS = {
    "masks": "data/davis/Annotations",
    "report": "metrics/report.html",
    "model": "models/segmenter",
}

ROWS = {
    "method": "Backdrop",
    "d_and_s": "D and S alone",
    "flow_threshold": "optical flow, thresholded",
    "mog2": "background subtraction, MOG2",
}
"""Results of scores.json -> the rows of the table."""

LISTED = 5
"""Videos that are named, at most."""

LOOKED_AT = 3000
"""Frames that are looked at, at most; spread over all videos."""


class LookedAt(NamedTuple):
    """What the masks of a video are like.

    sure: `doubts.sureness`, mean over the frames with a mask, in [0, 1]. NaN: there is no mask.
    empty: share of the frames without a mask.
    jump: the largest mask over the smallest one, by area.
    """

    name: str
    sure: float
    empty: float
    jump: float

    def reasons(self) -> list[str]:
        """Why to look at it; empty: no reason."""
        found = []
        if self.empty == 1:
            found.append("no mask at all")
        elif self.empty > 0.1:
            found.append(f"no mask in {self.empty:.0%} of the frames")
        if self.sure < UNSURE:
            found.append("the model is unsure of its masks")
        if self.jump > 8:
            found.append(f"masks differ in size up to {self.jump:.0f} times")
        return found


def summary(project: Path) -> str:
    """Lines for a person; without scores (a pipeline of somebody's own) there are none.

    Raises:
        BackdropError: what the run left is damaged.
    """
    if not (project / "metrics" / "scores.json").is_file():
        return ""
    scores = read_scores(project)
    lines = _scored(project, scores) if scores["frames_scored"] else _unscored(project)
    lines += _budget(project) + _left_out(project)
    lines += [f"{name:8}{project / path}" for name, path in PATHS.items() if (project / path).exists()]
    return "\n".join(lines)


def _scored(project: Path, scores: Mapping[str, Any]) -> list[str]:
    """The table of scores, and the worst video."""
    width = max(map(len, ROWS.values()))
    lines = [f"{'':{width}}     J     F   box"]
    for name, label in ROWS.items():
        found = result_of(scores, name)
        if found:
            cells = [_figure(found.get(key)) for key in ("J_mean", "F_mean", "mAP50")]
            lines.append(f"{label:{width}}{''.join(f'{cell:>6}' for cell in cells)}")
    lines.append("J: overlap with the true mask. F: agreement of outlines. box: precision of boxes. 1.00 is perfect.")
    table = pd.read_csv(project / "metrics" / "per_sequence.csv", dtype={"sequence": str}, keep_default_na=False)
    known = {name: j_mean(table, name, "method") for name in dict.fromkeys(table["sequence"])}
    worst = sorted((float(j), name) for name, j in known.items() if j is not None)[:1]
    if len(known) > 1 and worst:
        lines.append(f"Look first at {worst[0][1]}: its J is the lowest, {_figure(worst[0][0])}.")
    return lines


def _figure(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.2f}"


def _unscored(project: Path) -> list[str]:
    """How sure the masks are without truth, and which videos to look at."""
    found = list(_looked_at(project))
    if not found:
        return []
    known = [one.sure for one in found if not np.isnan(one.sure)]
    count = f"{len(found)} video{'s' * (len(found) != 1)}"
    sure = f"{np.mean(known):.2f}" if known else "unknown"
    lines = [f"Masks of {count}. How sure the model is of them: {sure} (its own view; 1.00 is quite sure)."]
    doubtful = sorted((one for one in found if one.reasons()), key=lambda one: (-one.empty, one.sure))
    if not doubtful:
        return [*lines, "No video stands out: look at the report all the same, as a model can be sure and wrong."]
    lines.append("Look first at:")
    lines += [f"  {one.name}: {'; '.join(one.reasons())} ({_figure(one.sure)})" for one in doubtful[:LISTED]]
    if len(doubtful) > LISTED:
        lines.append(f"  and {len(doubtful) - LISTED} more")
    return lines


def _looked_at(project: Path) -> Iterator[LookedAt]:
    """Every video with masks, by frames spread over it."""
    data = project / "data"
    names = [str(name) for name in read_videos(data / "frames", usable=True)["sequence"]]
    names = [name for name in names if (data / "masks" / f"{name}.zip").is_file()]
    each = max(8, LOOKED_AT // max(1, len(names)))
    for name in names:
        masks = MaskArchive(data / "masks" / f"{name}.zip")
        soft = Predictions(data / "predictions" / f"{name}.zip")
        count = len(masks)
        yield _found(name, masks, soft, spread(range(count), each))


def _found(name: str, masks: MaskArchive, predictions: Predictions, frames: Sequence[int]) -> LookedAt:
    sure, areas = [], []
    for t in frames:
        if not (masks.has(t) and predictions.has(t)):
            continue
        mask, soft = masks.gray(t) > 127, predictions.soft(t)
        areas.append(float(mask.sum()))
        if areas[-1]:
            sure.append(sureness(soft, mask))
    filled = [area for area in areas if area]
    jump = max(filled) / min(filled) if filled else 1.0
    return LookedAt(name, float(np.mean(sure)) if sure else float("nan"), 1 - len(filled) / max(1, len(areas)), jump)


def _budget(project: Path) -> list[str]:
    """How many frames training saw, where `data.budget` drew them."""
    frames = project / "data" / "frames"
    if not is_streamed(frames):
        return []
    total = int(read_videos(frames, usable=True)["frames"].sum())
    return [f"Training saw {trained_frames(frames):,} of {total:,} frames (data.budget)."]


def _left_out(project: Path) -> list[str]:
    """Footage that could not be read, or not to its end."""
    try:
        index = read_videos(project / "data" / "frames")
    except BackdropError:
        return []
    bad = index[index["status"] != "ok"]
    if bad.empty:
        return []
    named = [f"{row.source} ({row.status})" for row in bad.iloc[:LISTED].itertuples()]
    more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return [f"Not read, or not to the end: {', '.join(named)}{more}. Why: data/frames/index.csv"]
