"""What masks tell of their own J without truth: single measures, a fit of them, and the doubts that `predict` names.

    python -m benchmarks.quality runs/sequences/*                # finished runs of benchmarks.sequences, and
    python -m benchmarks.quality runs/sequences/* . --out quality.json     # those of this repository (dvc repro)

Reads masks, soft masks, frames and per_frame.csv of finished runs; those without scores are left out. Prints the rank
correlation (Spearman) of each measure with J over all frames and within sequences; that of a fit with weights of one
sign (non-negative least squares on measures of mean 0 and deviation 1), each run predicted by the fit of the others;
and for each doubt how many of its frames have a J below one half. Writes all of it to benchmarks/quality.json.

The fit is not shipped: see docs/cli.md for what came.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.optimize import nnls
from scipy.stats import spearmanr

from backdrop.doubts import Doubt, doubts, sureness
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import Mask, MaskArchive, Predictions, read_threshold
from backdrop.measures import jaccard
from backdrop.networks.predictor import presence
from backdrop.run.chunks import one_thread

ROOT = Path(__file__).resolve().parent.parent
SIZE = (320, 180)
"""Masks and frames are compared at this size."""

SIGNS = ("sure", "presence", "levels", "refined", "cells", "overlap", "area", "usual", "compact", "contrast")
"""Measures, each larger where a mask should be better: see `measures`."""

BAD = 0.5
"""Masks of a lower J are bad."""


def measures(run: Path) -> pd.DataFrame:
    """A row per scored frame: run, sequence, frame, J, doubts, and `SIGNS`.

    sure: `doubts.sureness`. presence: `predictor.presence`. levels: J of the soft mask above .25 and above .75.
    refined: J of the mask before and after the CRF. cells: the probability of the detector's cells with a mask.
    overlap: J with the mask before, moved onto this one. area, usual: how near the area is to that of the mask before,
    to the video's median, in (0, 1]. compact: 1 for a disk. contrast: how unlike the colors inside and around the mask
    are.
    """
    table = pd.read_csv(run / "metrics" / "per_frame.csv", dtype={"sequence": str})
    table = table[table["result"] == "method"]
    level, rows = read_threshold(run / "data" / "predictions")[0], []
    for name, own in table.groupby("sequence"):
        archives = (run / "data" / kind / f"{name}.zip" for kind in ("masks", "predictions", "frames"))
        stored, soft, frames = next(archives), Predictions(next(archives)), FrameArchive(next(archives))
        masks = [_small(MaskArchive(stored).gray(t) > 127) for t in range(len(frames))]
        areas = [float(mask.mean()) for mask in masks]
        overlaps = [None, *(jaccard(a, b, None) for a, b in zip(masks, masks[1:], strict=False))]
        sure = [sureness(_small_soft(soft.soft(t)), mask) for t, mask in enumerate(masks)]
        found = doubts(areas, overlaps, sure)
        usual = float(np.median([area for area in areas if area] or [1.0]))
        for row in own.itertuples():
            t = int(row.frame)  # type: ignore[call-overload] # pandas knows no types of rows
            mask, before = masks[t], masks[max(t - 1, 0)]
            values = [
                sure[t],
                *_of_soft(_small_soft(soft.soft(t)), mask, level),
                _in_cells(soft.p[t], mask),
                _moved_overlap(before, mask),
                *(min(areas[t], other) / max(areas[t], other, 1e-9) for other in (float(before.mean()), usual)),
                compactness(mask),
                color_contrast(cv2.resize(frames.image(t), SIZE, interpolation=cv2.INTER_AREA), mask),
            ]
            told = {"doubts": [doubt.value for doubt in found[t]], **dict(zip(SIGNS, values, strict=True))}
            rows.append({"run": run.resolve().name, "sequence": name, "frame": t, "J": float(row.J), **told})  # type: ignore[arg-type]
    return pd.DataFrame(rows)


def _small_soft(soft: np.ndarray) -> np.ndarray:
    return cv2.resize(soft, SIZE, interpolation=cv2.INTER_AREA)


def _small(mask: Mask) -> Mask:
    return _small_soft(mask.astype(np.float32)) > 0.5


def _of_soft(soft: np.ndarray, mask: Mask, level: float) -> tuple[float, float, float]:
    """presence, levels, refined."""
    return presence(soft), jaccard(soft > 0.75, soft > 0.25, None), jaccard(soft > level, mask, None)


def _in_cells(p: np.ndarray, mask: Mask) -> float:
    share = cv2.resize(mask.astype(np.float32), p.shape[::-1], interpolation=cv2.INTER_AREA)
    return float(p[share > 0.02].sum())


def _moved_overlap(before: Mask, mask: Mask) -> float:
    """J of two masks whose centers are laid over each other."""
    if not (before.any() and mask.any()):
        return 0.0
    shift = np.round([np.mean(axis) for axis in np.nonzero(mask)]) - [np.mean(axis) for axis in np.nonzero(before)]
    move = np.array([[1, 0, shift[1]], [0, 1, shift[0]]], np.float32)
    return jaccard(cv2.warpAffine(before.astype(np.uint8), move, SIZE) > 0, mask, None)


def compactness(mask: Mask) -> float:
    """Area against that of a disk of the same outline, in [0, 1]; 0 where the mask is empty."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    length = sum(cv2.arcLength(outline, True) for outline in outlines)
    return min(1.0, 4 * np.pi * float(mask.sum()) / length**2) if length else 0.0


def color_contrast(image: np.ndarray, mask: Mask, reach: int = 9) -> float:
    """How unlike colors in a mask and `reach` / 2 pixels around it are: 1 less the Bhattacharyya coefficient."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    around = (cv2.dilate(mask.astype(np.uint8), disk) > 0) & ~mask
    if not (mask.any() and around.any()):
        return 0.0
    light, a, b = (channel.astype(np.int64) for channel in cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)))
    color = (light // 32 * 32 + a // 8) * 32 + b // 8
    shares = [np.bincount(color[part], minlength=8192) + 0.01 for part in (mask, around)]
    inside, outside = (share / share.sum() for share in shares)
    return float(1 - np.sqrt(inside * outside).sum())


def left_out_fit(table: pd.DataFrame, signs: Sequence[str]) -> np.ndarray:
    """J of each frame as told by a fit to the frames of the other runs, which weigh alike."""
    values, j, runs = table[list(signs)].to_numpy(float), table["J"].to_numpy(float), table["run"].to_numpy()
    weight = np.sqrt(1 / table.groupby("run")["J"].transform("size").to_numpy(float))
    told = np.zeros(len(table))
    for run in np.unique(runs):
        others = runs != run
        scaled = (values - values[others].mean(axis=0)) / (values[others].std(axis=0) + 1e-9)
        design = np.column_stack([scaled, np.ones(len(table)), -np.ones(len(table))])
        weights, _ = nnls(design[others] * weight[others, None], j[others] * weight[others])
        told[~others] = design[~others] @ weights
    return told


def rank_correlation(values: np.ndarray, j: np.ndarray) -> float | None:
    """Spearman's; None where one of them does not vary."""
    if len(values) < 3 or not np.ptp(values) or not np.ptp(j):
        return None
    return round(float(spearmanr(values, j)[0]), 3)


def _correlations(table: pd.DataFrame, values: np.ndarray) -> dict[str, float | None]:
    """Over all frames, and within each run."""
    own = {str(run): rank_correlation(values[rows], table["J"].to_numpy()[rows]) for run, rows in _rows(table)}
    return {"all": rank_correlation(values, table["J"].to_numpy())} | own


def _rows(table: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    return [(run, (table["run"] == run).to_numpy()) for run in sorted(table["run"].unique())]


def told_by_doubts(table: pd.DataFrame) -> list[dict[str, object]]:
    """A row per doubt, and one for any of them: frames, their mean J and that of the others, shares of bad masks."""
    bad = (table["J"] < BAD).to_numpy()
    raised = {str(doubt): table["doubts"].map(lambda own, d=doubt: d in own).to_numpy() for doubt in Doubt}
    rows: list[dict[str, object]] = []
    for name, there in {**raised, "any": np.logical_or.reduce(list(raised.values()))}.items():
        rows.append(
            {
                "doubt": name,
                "frames": int(there.sum()),
                "J": _mean(table["J"].to_numpy()[there]),
                "J_others": _mean(table["J"].to_numpy()[~there]),
                "bad_among_them": _mean(bad[there]),
                "of_all_bad": _mean(there[bad]),
            }
        )
    return rows


def _mean(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 3) if values.size else None


def result(table: pd.DataFrame) -> dict[str, object]:
    """All figures. `best_of` is the best of all fits of up to three measures: chosen afterwards, so it flatters."""
    sets = [signs for count in (1, 2, 3) for signs in combinations(SIGNS, count)]
    fits = [(rank_correlation(left_out_fit(table, signs), table["J"].to_numpy()) or -1.0, signs) for signs in sets]
    best = max(fits)[1]
    return {
        "frames": len(table),
        "runs": {run: _mean(table["J"].to_numpy()[rows]) for run, rows in _rows(table)},
        "bad": _mean((table["J"] < BAD).to_numpy()),
        "measures": {sign: _correlations(table, table[sign].to_numpy(float)) for sign in SIGNS},
        "fit": _correlations(table, left_out_fit(table, SIGNS)),
        "best_of": {"measures": best, **_correlations(table, left_out_fit(table, best))},
        "doubts": told_by_doubts(table),
    }


def lines(found: dict) -> list[str]:
    """The tables, as Markdown."""
    names = ["all", *found["runs"]]
    said = [f"| rank correlation with J | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    best = f"best fit of three: {', '.join(found['best_of']['measures'])}"
    for label, row in [*found["measures"].items(), ("fit of all", found["fit"]), (best, found["best_of"])]:
        said.append(f"| {label} | {' | '.join(_figure(row[name]) for name in names)} |")
    said += ["", "| doubt | frames | mean J | of the others | J < .5 among them | of all J < .5 |", "|---" * 6 + "|"]
    for row in found["doubts"]:
        cells = [_figure(row[key]) for key in ("J", "J_others", "bad_among_them", "of_all_bad")]
        said.append(f"| {row['doubt']} | {row['frames']} | {' | '.join(cells)} |")
    return said


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "quality.json")
    arguments = parser.parse_args()
    tables = []
    for run in arguments.runs:
        if not (run / "metrics" / "per_frame.csv").is_file():
            print(f"{run.name} is not scored yet: left out")
            continue
        with one_thread("cpu"):
            tables.append(measures(run))
        print(f"{run.resolve().name}: {len(tables[-1])} frames", flush=True)
    if len(tables) < 2:
        raise BackdropError("a run is told by the fit of the others: give two finished runs, at least")
    found = result(pd.concat(tables, ignore_index=True))
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
