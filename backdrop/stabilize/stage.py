"""Stage stabilize: homographies between each frame and its neighbor."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.io.files import atomic_path
from backdrop.io.frame_archive import FrameArchive, frame_counts
from backdrop.io.index import usable_sequences
from backdrop.io.masks import Mask
from backdrop.motion.homography import (
    FIELDS,
    Homographies,
    Images,
    Keypoints,
    PairEstimate,
    estimate_homography,
    keypoints,
    neighbor_of,
    save_homographies,
)
from backdrop.motion.parameters import StabilizeParams
from backdrop.run.chunks import by_sequence, cached_open

STABILIZE_COLUMNS = ("sequence", "frames", "valid", "median_inliers")

FAILURES_TO_WARN = 1 / 3
"""Share of failed pairs above which a sequence is warned of."""

STABILIZE_CHUNK = 32
"""Frames per task. The keypoints of the `gap` frames after a chunk are found twice, in this task and in the next."""


def stabilize_sequence(
    archive: Images, params: StabilizeParams, span: range | None = None, region: Mask | None = None
) -> Homographies:
    """Homographies from each frame's neighbor to the frame, for the N frames of `span`; None: for all.

    Every frame is decoded once, and its keypoints are found once. The keypoints of only gap + 1 frames are held at a
    time.

    Args:
        region: of interest, at the frames' size; keypoints lie in it. None: anywhere.

    Returns:
        `H` (N, 3, 3) float64, `neighbor` (N,) int, `valid` (N,) bool, `matches` and `inliers` (N,) int,
        `reason` (N,) str ("" where valid; elsewhere `H` is the identity).

    Raises:
        BackdropError: a frame of the archive cannot be read.
    """
    count, gap = len(archive), params.gap
    missing = PairEstimate(np.eye(3), False, f"no frame at distance {gap} in {count} frames", 0, 0)
    span = range(count) if span is None else span
    pairs = dict.fromkeys(span, missing)
    live: dict[int, Keypoints] = {}
    for t in sorted({*span, *(neighbor_of(t, count, gap) for t in span)}):
        image = archive.image(t)
        size = (image.shape[1], image.shape[0])
        live[t] = keypoints(image, params.features, region)
        before = t - gap
        if before not in live:
            continue
        if before in pairs:
            pairs[before] = estimate_homography(live[t], live[before], size, params)
        if t in pairs and neighbor_of(t, count, gap) == before:
            pairs[t] = estimate_homography(live[before], live[t], size, params)
        del live[before]
    found = list(pairs.values())
    return {
        "H": np.array([pair.H for pair in found], np.float64).reshape(-1, 3, 3),
        "neighbor": np.array([neighbor_of(t, count, gap) for t in span], np.int64),
        "valid": np.array([pair.valid for pair in found], bool),
        "matches": np.array([pair.matches for pair in found], np.int64),
        "inliers": np.array([pair.inliers for pair in found], np.int64),
        "reason": np.array([pair.reason for pair in found], np.str_),
    }


def stabilize_all(
    frames_dir: str | Path, out_dir: str | Path, params: StabilizeParams, workers: int = 0
) -> list[dict[str, Any]]:
    """Stabilize every usable sequence of `frames_dir` into `out_dir`/<sequence>.npz, with an `index.csv`.

    Warns on stderr of each sequence in which more than a third of the pairs failed.

    Args:
        workers: processes, which take chunks of `STABILIZE_CHUNK` frames; 0: one per core.

    Returns:
        The rows of the index: sequence, frames, valid (pairs), median_inliers (of the valid pairs).

    Raises:
        BackdropError: no sequence is usable, or a frame cannot be read.
    """
    names = usable_sequences(frames_dir)
    counts, rest = frame_counts(frames_dir, names), (Path(frames_dir), params)
    with closing(
        by_sequence(_stabilize_chunk, counts, STABILIZE_CHUNK, rest, workers=workers, title="stabilize")
    ) as sequences:
        rows = [_save_chunks(name, chunks, Path(out_dir) / f"{name}.npz") for name, chunks in sequences]
    with atomic_path(Path(out_dir) / "index.csv") as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, STABILIZE_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        failed = row["frames"] - row["valid"]
        if failed > FAILURES_TO_WARN * row["frames"]:
            share, reason = f"{failed} of {row['frames']} frame pairs", row["reason"]
            print(
                f"warning: {row['sequence']}: {share} could not be stabilized and get no flow (most often: {reason})",
                file=sys.stderr,
            )
    return rows


def _stabilize_chunk(name: str, span: range, frames_dir: Path, params: StabilizeParams) -> Homographies:
    archive = cached_open(FrameArchive, frames_dir / f"{name}.zip")
    return stabilize_sequence(archive, params, span, archive.region)


def _save_chunks(name: str, chunks: Iterable[Homographies], out: Path) -> dict[str, Any]:
    """Write the file of a sequence. Returns its row of the index, with the most frequent reason of failures."""
    parts = list(chunks)
    homographies = {key: np.concatenate([part[key] for part in parts]) for key in FIELDS}
    save_homographies(out, homographies)
    valid = homographies["valid"]
    reasons, counts = np.unique(homographies["reason"][~valid], return_counts=True)
    return {
        "sequence": name,
        "frames": len(valid),
        "valid": int(valid.sum()),
        "median_inliers": float(np.median(homographies["inliers"][valid])) if valid.any() else 0.0,
        "reason": str(reasons[counts.argmax()]) if len(reasons) else "",
    }
