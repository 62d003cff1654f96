"""Stage refine: the dense CRF over all predictions, and the threshold that suits it."""

from __future__ import annotations

from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path

import numpy as np

from backdrop.crf.dense import refine
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter
from backdrop.io.files import atomic_folder
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.index import read_index
from backdrop.io.masks import Predictions, entry, read_threshold, resize_mask, split_truth
from backdrop.measures import jaccard
from backdrop.run.chunks import by_sequence, cached_open
from backdrop.run.processes import each
from backdrop.thresholds import GRID, best_threshold

CRF_LEVELS = GRID[1::2]
"""Thresholds that are tried with the CRF: .1, .2 to .9."""

TUNED = 60
"""Validation frames that they are tried on, nine runs of the CRF each."""

REFINE_CHUNK = 4
"""Frames a task: few enough to keep all processes busy to the end."""


def choose_refined_threshold(
    frames_dir: str | Path, predictions_dir: str | Path, params: CRFParams, workers: int = 0
) -> tuple[float, str]:
    """The threshold of the soft masks whose masks are best after the CRF: best mean J on validation sequences.

    The CRF moves edges: what is best before it need not be best after it. Looks at every tenth of a threshold and at
    up to `TUNED` frames with truth, spread over the validation sequences alike. Where the stage segment had no
    validation truth, or the CRF is off, its choice stays.

    Returns:
        (threshold, what it was chosen on).
    """
    before, chosen_on = read_threshold(predictions_dir)
    if chosen_on != "validation" or not params.enabled or not params.iterations:
        return before, chosen_on
    index = read_index(Path(frames_dir), usable=True)
    names = index.loc[index["split"] == "val", "sequence"].tolist()
    calls = []
    for name in names:
        frames, predictions = Path(frames_dir) / f"{name}.zip", Path(predictions_dir) / f"{name}.zip"
        archive = FrameArchive(frames)
        truth = [t for t in range(len(archive)) if archive.has_mask(t)]
        count = min(len(truth), max(1, TUNED // len(names)))
        if count and predictions.is_file():
            some = [truth[k] for k in np.linspace(0, len(truth) - 1, count).round().astype(int)]
            calls += [(name, frames, predictions, some[i::4]) for i in range(4) if some[i::4]]
    if not calls:
        return before, chosen_on
    parts = each(_refined_grid, [(*call, params) for _, *call in calls], workers)
    grids: dict[str, list[np.ndarray]] = {}
    for (name, *_), part in zip(calls, parts, strict=True):
        grids.setdefault(name, []).append(part)
    return best_threshold([np.concatenate(part) for part in grids.values()], CRF_LEVELS), chosen_on


def _refined_grid(frames: Path, predictions: Path, some: list[int], params: CRFParams) -> np.ndarray:
    """J after the CRF, (frames, `LEVELS`)."""
    images, soft = cached_open(FrameArchive, frames), cached_open(Predictions, predictions)
    rows = np.zeros((len(some), len(CRF_LEVELS)))
    for row, t in zip(rows, some, strict=True):
        stored = images.mask(t)
        if stored is None or not soft.has(t):
            continue
        truth, void = split_truth(stored)
        image, own = images.image(t), soft.soft(t)
        for k, level in enumerate(CRF_LEVELS):
            mask = refine(image, own, float(level), params)
            row[k] = jaccard(resize_mask(mask, (truth.shape[1], truth.shape[0])), truth, void)
    return rows


def refine_all(
    frames_dir: str | Path,
    predictions_dir: str | Path,
    out_dir: str | Path,
    davis_dir: str | Path | None,
    params: CRFParams,
    threshold: float,
    workers: int = 0,
) -> list[str]:
    """Final masks of every sequence that has predictions, each sequence whole or not at all.

    Writes `out_dir`/<sequence>.zip (000000.png, 0/255) and, for other tools, where `davis_dir` is
    given, `davis_dir`/Annotations/<sequence>/<frame's name>.png. Memory does not grow with the frames:
    processes refine a few frames at a time, and this one writes what they return, in order.

    Args:
        threshold: of the soft masks, as the stage segment chose it.
        workers: processes; 0: one a core.

    Returns:
        The names of the sequences written.

    Raises:
        BackdropError: no predictions at all, or an archive is damaged (it is named).
    """
    frames_dir, predictions_dir = Path(frames_dir), Path(predictions_dir)
    counts = _predicted_counts(frames_dir, predictions_dir)
    rest = (frames_dir, predictions_dir, params, threshold)
    with closing(by_sequence(_refine_frames, counts, REFINE_CHUNK, rest, workers=workers, title="refine")) as sequences:
        for name, chunks in sequences:
            names = FrameArchive(frames_dir / f"{name}.zip").names
            annotations = None if davis_dir is None else Path(davis_dir) / "Annotations" / name
            with (
                ArchiveWriter(Path(out_dir) / f"{name}.zip") as archive,
                nullcontext() if annotations is None else atomic_folder(annotations) as folder,
            ):
                for t, png in enumerate(chain.from_iterable(chunks)):
                    archive.add(entry(t), png)
                    if folder is not None:
                        (folder / f"{names[t]}.png").write_bytes(png)
    return list(counts)


def _predicted_counts(frames_dir: Path, predictions_dir: Path) -> dict[str, int]:
    """Sequences with stored frames and predictions, and their number of frames, in the order of the index."""
    index = read_index(frames_dir)
    usable = index[index["status"] != "skipped"]
    counts = {str(row.sequence): int(row.frames) for row in usable.itertuples()}
    found = {name: n for name, n in counts.items() if (predictions_dir / f"{name}.zip").is_file()}
    if not found:
        raise BackdropError(
            f"{predictions_dir} holds no predictions of the sequences in {frames_dir}: run segment first"
        )
    return found


def _refine_frames(
    name: str, span: range, frames_dir: Path, predictions_dir: Path, params: CRFParams, threshold: float
) -> list[bytes]:
    predictions = predictions_dir / f"{name}.zip"
    images, soft = cached_open(FrameArchive, frames_dir / f"{name}.zip"), cached_open(Predictions, predictions)
    result = []
    for t in span:
        try:
            mask = refine(images.image(t), soft.soft(t), threshold, params)
        except BackdropError as fault:
            raise BackdropError(f"{predictions}, frame {t}: {fault}") from fault
        result.append(encode_png(mask.view(np.uint8) * 255))
    return result
