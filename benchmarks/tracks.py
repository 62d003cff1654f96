"""Boxes and skeletons through a video, before and after bundle adjustment (`backdrop.adjust`).

    python -m benchmarks.tracks runs/sequences/*                      # finished runs of benchmarks.sequences, and
    python -m benchmarks.tracks runs/sequences/* --out tracks.json    # rendered footage, always

Boxes, of the truth: mean IoU over the frames whose truth has a subject (0 where there is no box), and jitter: the mean
absolute second difference of center and size, in percent of the image's diagonal. Of finished runs the masks count;
of rendered footage its exact masks, made worse: see `worsened`. Skeletons: the mean and the median distance of joints,
in percent of the skeleton's height, from detections that are made worse (`puppet.poor_detections`).
Writes benchmarks/tracks.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import pandas as pd

from backdrop.adjust.boxes import extents
from backdrop.adjust.identities import MaskedFrame, steady_tracks
from backdrop.adjust.skeleton import SkeletonWeights, adjust_skeleton
from backdrop.crf.instances import Linker
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import FOREGROUND, Mask, MaskArchive, resize_mask
from backdrop.measures import box_iou
from backdrop.render.clip import MODES, Clip
from backdrop.run.chunks import one_thread
from benchmarks.puppet import PARENTS, clip_joints, poor_detections, puppet_prior

ROOT = Path(__file__).resolve().parent.parent
CHOSEN_ON = ("bmx-bumps", "boat", "dog-agility", "drift-turn")
"""Weights of boxes were chosen on runs of these sequences: their figures stand apart."""

SIZE, FRAMES, CLIPS = (320, 192), 60, 6
"""Of the rendered footage."""

SKELETONS = {
    "adjusted": SkeletonWeights(),
    "first differences": SkeletonWeights(order=1),
    "no temporal term": SkeletonWeights(joint=0, point=0, camera=0),
    "no limit": SkeletonWeights(limit=1e6),
}
"""What is compared; "no prior" is added."""


def box_figures(masks: Sequence[Mask], truth: Sequence[Mask | None]) -> dict[str, float]:
    """Figures of a video with one subject. truth: None: nobody knows; an empty one: there is no subject."""
    start = perf_counter()
    found = steady_tracks(
        [MaskedFrame(float(t), (1,) if m.any() else (), (m,) if m.any() else ()) for t, m in enumerate(masks)]
    )
    seconds = perf_counter() - start
    before, right = (_boxes(kind) for kind in (masks, truth))
    after = np.array([boxes.get(1, np.full(4, np.nan)) for boxes in found.boxes])
    there = np.isfinite(right).all(axis=1)
    bridged = np.isnan(before[:, 0]) & np.isfinite(after[:, 0])
    diagonal = float(np.hypot(*masks[0].shape))
    figures: dict[str, float] = {
        "frames": len(masks),
        "without_mask": int(np.isnan(before[:, 0]).sum()),
        "bridged": int(bridged.sum()),
    }
    for name, boxes in (("before", before), ("after", after)):
        overlaps = [_iou(boxes[t], right[t]) for t in np.flatnonzero(there)]
        figures |= {f"iou_{name}": float(np.mean(overlaps)), f"jitter_{name}": jitter(boxes, diagonal)}
    of_bridged = [_iou(after[t], right[t]) for t in np.flatnonzero(bridged & there)]
    extra = {"iou_bridged": float(np.mean(of_bridged))} if of_bridged else {}
    return figures | {"jitter_truth": jitter(right, diagonal), "seconds": seconds} | extra


def _boxes(masks: Iterable[Mask | None]) -> np.ndarray:
    """(T, 4) extents; NaN where there is none."""
    return np.array([np.full(4, np.nan) if m is None or not m.any() else extents([m])[0] for m in masks])


def jitter(boxes: np.ndarray, diagonal: float) -> float:
    """Mean absolute second difference of center, width and height, in percent of the diagonal, where boxes are."""
    low, high = boxes[:, :2], boxes[:, 2:]
    bend = np.abs(np.diff(np.concatenate([(low + high) / 2, high - low], axis=1), 2, axis=0))
    return float(100 * np.nanmean(bend) / diagonal) if np.isfinite(bend).any() else float("nan")


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    if not np.isfinite(one).all():
        return 0.0
    first, second = (np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]]) for box in (one, other))
    return box_iou(first, second)


def of_run(run: Path) -> list[dict[str, Any]]:
    """A row per sequence of a finished run with truth."""
    table = pd.read_csv(run / "metrics" / "per_frame.csv", dtype={"sequence": str})
    rows = []
    for name in table.loc[table["result"] == "method", "sequence"].unique():
        stored, frames = (
            MaskArchive(run / "data" / "masks" / f"{name}.zip"),
            FrameArchive(run / "data" / "frames" / f"{name}.zip"),
        )
        masks = [stored.gray(t) > 127 for t in range(len(frames))]
        known = [frames.mask(t) for t in range(len(frames))]
        size = masks[0].shape[1], masks[0].shape[0]
        truth = [None if one is None else resize_mask(one == FOREGROUND, size) for one in known]
        rows.append({"run": run.resolve().name, "sequence": str(name), **box_figures(masks, truth)})
    return rows


def worsened(masks: Sequence[Mask], rng: np.random.Generator) -> list[Mask]:
    """Masks as a poor segmenter would leave them. In a tenth of the frames each: none; the lower third is missing; a
    blob stands elsewhere. In all frames the outline is moved in or out by up to two pixels."""
    found = []
    for mask in masks:
        size = int(rng.integers(1, 6))
        change = cv2.erode if rng.random() < 0.5 else cv2.dilate
        one = change(mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
        kind = rng.random()
        if kind < 0.1:
            one[:] = False
        elif kind < 0.2 and one.any():
            rows = np.flatnonzero(one.any(axis=1))
            one[rows[0] + 2 * len(rows) // 3 :] = False
        elif kind < 0.3:
            x, y = rng.integers(0, SIZE[0] - 20), rng.integers(0, SIZE[1] - 20)
            one[y : y + 20, x : x + 20] = True
        found.append(one)
    return found


def of_rendered() -> list[dict[str, Any]]:
    """A row per clip: boxes, and how many numbers its subject has had, by the linker and after the adjustment."""
    rows = []
    for k in range(CLIPS):
        clip = Clip(k, MODES[k % 3], SIZE, FRAMES, subject=800 + k, stretch=800 + k)
        truth = [clip.mask(t) for t in range(FRAMES)]
        masks = worsened(truth, np.random.default_rng(k))
        linker = Linker()
        shown = [MaskedFrame(float(t), tuple(linker.numbers(own)), tuple(own)) for t, own in enumerate(_gaps(truth))]
        numbers = {"numbers_before": _count(frame.numbers for frame in shown)}
        numbers["numbers_after"] = _count(steady_tracks(shown).numbers)
        rows.append({"clip": k, "mode": clip.mode, **box_figures(masks, truth), **numbers})
    return rows


def _gaps(masks: Sequence[Mask]) -> list[list[Mask]]:
    """Every third frame, and five of these without mask: the subject moves on meanwhile."""
    return [[mask] if mask.any() and not 8 <= k < 13 else [] for k, mask in enumerate(masks[::3])]


def _count(numbers: Iterable[tuple[int, ...]]) -> int:
    return len({one for own in numbers for one in own})


def of_skeletons() -> list[dict[str, Any]]:
    """A row per clip and kind of detections: errors of the surest skeleton of each frame, and of each adjustment."""
    prior, rows = puppet_prior(), []
    for k in range(CLIPS):
        truth = clip_joints(k, MODES[k % 3], SIZE, FRAMES, 800 + k)
        height = float(np.median(np.ptp(truth[..., 1], axis=1)))
        for noise, outliers in ((0.02, 0.0), (0.02, 0.1), (0.05, 0.2)):
            found = poor_detections(truth, np.random.default_rng(k), noise, outliers)
            surest = found.joints[np.arange(FRAMES), found.confidences.sum(axis=2).argmax(axis=1)]
            points = {name: adjust_skeleton(*found, PARENTS, prior, w).points for name, w in SKELETONS.items()}
            points |= {"surest": surest, "no prior": adjust_skeleton(*found, PARENTS).points}
            for name, own in points.items():
                apart = 100 * np.linalg.norm(own - truth, axis=2) / height
                row = {"clip": k, "noise": noise, "outliers": outliers, "points": name}
                rows.append(row | {"mean": float(apart.mean()), "median": float(np.median(apart))})
        print(f"skeleton {k}", flush=True)
    return rows


def lines(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The tables, as Markdown."""
    head = (
        "frames | without mask | bridged | IoU before | IoU after | jitter before | jitter after | jitter of the truth"
    )
    keys = ("iou_before", "iou_after", "jitter_before", "jitter_after", "jitter_truth")
    said = [f"| boxes | {head} |", "|---" * 9 + "|"]
    runs = pd.DataFrame(found["runs"])
    groups = {} if runs.empty else dict(list(runs.groupby(runs["sequence"].isin(CHOSEN_ON))))
    names = {True: "runs, weights chosen on", False: "runs, others"}
    tables = {names[bool(chosen)]: table for chosen, table in groups.items()} | {
        "rendered": pd.DataFrame(found["rendered"])
    }
    for label, table in tables.items():
        counts = [int(table[key].sum()) for key in ("frames", "without_mask", "bridged")]
        means = [f"{table[key].mean():.3f}" if key.startswith("iou") else f"{table[key].mean():.2f}" for key in keys]
        said.append(f"| {label} ({len(table)}) | {' | '.join([*map(str, counts), *means])} |")
    skeletons = pd.DataFrame(found["skeletons"])
    kinds = list(skeletons.groupby(["noise", "outliers"]).groups)
    rendered = pd.DataFrame(found["rendered"])
    counts = [int(rendered[key].sum()) for key in ("numbers_before", "numbers_after")]
    said += ["", f"Numbers of {len(rendered)} rendered subjects over a gap: {counts[0]} before, {counts[1]} after."]
    said += ["", f"| skeletons | {' | '.join(f'noise {n:.0%}, outliers {o:.0%}' for n, o in kinds)} |"]
    said += ["|---" * (len(kinds) + 1) + "|"]
    for name in ("surest", *SKELETONS, "no prior"):
        own = skeletons[skeletons["points"] == name].groupby(["noise", "outliers"])[["mean", "median"]].mean()
        said.append(f"| {name} | {' | '.join(f'{row.mean:.2f} / {row.median:.2f}' for row in own.itertuples())} |")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "tracks.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with one_thread("cpu"):
        for run in arguments.runs:
            if not (run / "metrics" / "per_frame.csv").is_file():
                print(f"{run.name} is not scored yet: left out")
                continue
            rows += of_run(run)
            print(f"{run.name}: {rows[-1]['frames']} frames", flush=True)
        found = {"runs": rows, "rendered": of_rendered(), "skeletons": of_skeletons()}
    arguments.out.write_text(json.dumps(_rounded(found), indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(found)))


def _rounded(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        kind: [{key: round(one, 4) if isinstance(one, float) else one for key, one in row.items()} for row in rows]
        for kind, rows in found.items()
    }


if __name__ == "__main__":
    main()
