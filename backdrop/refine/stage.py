"""Stage refine: the dense CRF over all predictions, and the threshold that suits it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from backdrop.crf.dense import refine
from backdrop.crf.findings import best_finding
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter, PartWriter, archive_entries
from backdrop.io.files import atomic_folder, kept_folder
from backdrop.io.images import encode_png
from backdrop.io.index import is_streamed, read_videos
from backdrop.io.masks import Predictions, entry, read_threshold, resize_mask, split_truth, within_region
from backdrop.learn.source_files import run_key
from backdrop.measures import jaccard
from backdrop.run.chunks import by_sequence, cached_open, spread
from backdrop.run.processes import each
from backdrop.thresholds import GRID, best_threshold
from backdrop.video.streamed import check_frames, open_frames

CRF_LEVELS = GRID[1::2]
"""Thresholds that are tried with the CRF: .1, .2 to .9."""

TUNED = 60
"""Validation frames on which the thresholds are tried, with nine runs of the CRF per frame."""

REFINE_CHUNK = 4
"""Frames per task: few enough to keep all processes busy to the end."""

STREAMED_REFINE_CHUNK = 64
"""The same of videos that are not stored, see `segment.stage.STREAMED_CHUNK`."""


@dataclass(frozen=True)
class RefineFolders:
    """Where the stage reads and writes. A sequence's file in each folder bears its name.

    Attributes:
        frames: archives of frames, and index.csv.
        predictions: archives of soft masks, and threshold.json.
        masks: gets archives of final masks.
        davis: gets the same masks in the layout of DAVIS, for other tools; None: they are not written.
        kept: folder outside of the outputs, where a run that is stopped leaves what it has of videos that are not
            stored (`data.budget`), for the next one; None: nothing is left.
        truth_alone: frames without ground truth may have no prediction. They get no mask then.
    """

    frames: Path
    predictions: Path
    masks: Path
    davis: Path | None = None
    kept: Path | None = None
    truth_alone: bool = False


def choose_refined_threshold(folders: RefineFolders, params: CRFParams, workers: int = 0) -> tuple[float, str]:
    """The threshold of the soft masks whose masks are best after the CRF: best mean J on validation sequences.

    The CRF moves edges: what is best before it need not be best after it. The thresholds of `CRF_LEVELS` are tried on
    up to `TUNED` frames with truth, as many from each validation sequence. Where the stage segment had no validation
    truth, or the CRF is off, the choice of that stage stays.

    Args:
        workers: processes; 0: one per core.

    Returns:
        (threshold in [0, 1], what it was chosen on).

    Raises:
        BackdropError: threshold.json is missing, or an archive is damaged (it is named).
    """
    before, chosen_on = read_threshold(folders.predictions)
    if chosen_on != "validation" or not params.enabled:
        return before, chosen_on
    index = read_videos(folders.frames, usable=True)
    names = index.loc[index["split"] == "val", "sequence"].tolist()
    tasks = []
    for name in names:
        frames, predictions = folders.frames / f"{name}.zip", folders.predictions / f"{name}.zip"
        archive = open_frames(frames)
        truth = [t for t in range(len(archive)) if archive.has_mask(t)]
        count = min(len(truth), max(1, TUNED // len(names)))
        if count and predictions.is_file():
            some = spread(truth, count)
            tasks += [(name, frames, predictions, some[i::4]) for i in range(4) if some[i::4]]
    if not tasks:
        return before, chosen_on
    parts = each(_refined_grid, [(*task, params) for _, *task in tasks], workers)
    grids: dict[str, list[np.ndarray]] = {}
    for (name, *_), part in zip(tasks, parts, strict=True):
        grids.setdefault(name, []).append(part)
    return best_threshold([np.concatenate(part) for part in grids.values()], CRF_LEVELS), chosen_on


def _refined_grid(frames: Path, predictions: Path, some: list[int], params: CRFParams) -> np.ndarray:
    """J after the CRF at each threshold: (frames, `CRF_LEVELS`)."""
    images, soft = cached_open(open_frames, frames), cached_open(Predictions, predictions)
    rows = np.zeros((len(some), len(CRF_LEVELS)))
    for row, t in zip(rows, some, strict=True):
        stored = images.mask(t)
        if stored is None or not soft.has(t):
            continue
        truth, void = split_truth(stored)
        image, probability, box = images.image(t), soft.soft(t), best_finding(soft.box[t], soft.p[t])
        for k, level in enumerate(CRF_LEVELS):
            mask = refine(image, probability, float(level), params, box)
            row[k] = jaccard(resize_mask(mask, (truth.shape[1], truth.shape[0])), truth, void)
    return rows


def refine_all(folders: RefineFolders, params: CRFParams, threshold: float, workers: int = 0) -> list[str]:
    """Final masks of every sequence that has predictions. A sequence is written completely or not at all.

    Writes `folders.masks`/<sequence>.zip (000000.png, 0/255). Where `folders.davis` is given, writes also
    `folders.davis`/Annotations/<sequence>/<frame's name>.png. Memory does not grow with the frames: processes refine
    a few frames at a time, and this process writes what they return, in order.

    Args:
        threshold: of the soft masks, in [0, 1], such as `choose_refined_threshold` gives.
        workers: processes; 0: one per core.

    Returns:
        The names of the sequences written.

    Raises:
        BackdropError: no predictions at all, or an archive is damaged (it is named).
    """
    counts = predicted_counts(folders)
    streamed = is_streamed(folders.frames)
    length = STREAMED_REFINE_CHUNK if streamed else REFINE_CHUNK
    with ExitStack() as stack:
        parts = None
        if streamed and folders.kept is not None and params.enabled:
            parts = stack.enter_context(_kept(folders, params, threshold, counts))
        rest = (folders, params, (threshold, parts))
        found = by_sequence(_refine_frames, counts, length, rest, workers=workers, title="refine")
        for name, chunks in stack.enter_context(closing(found)):
            names = open_frames(folders.frames / f"{name}.zip").names
            annotations = None if folders.davis is None else folders.davis / "Annotations" / name
            with (
                ArchiveWriter(folders.masks / f"{name}.zip") as archive,
                nullcontext() if annotations is None else atomic_folder(annotations) as folder,
            ):
                for t, png in enumerate(chain.from_iterable(chunks)):
                    if not png:
                        continue
                    archive.add(entry(t), png)
                    if folder is not None:
                        (folder / f"{names[t]}.png").write_bytes(png)
    return list(counts)


def predicted_counts(folders: RefineFolders) -> dict[str, int]:
    """Sequences with stored frames and predictions, and their number of frames, in the order of the index."""
    counts = {str(row.sequence): int(row.frames) for row in read_videos(folders.frames, usable=True).itertuples()}
    found = {name: n for name, n in counts.items() if (folders.predictions / f"{name}.zip").is_file()}
    if not found:
        raise BackdropError(
            f"{folders.predictions} holds no predictions of the sequences in {folders.frames}: run segment first"
        )
    return found


@contextmanager
def _kept(folders: RefineFolders, params: CRFParams, threshold: float, names: Iterable[str]) -> Iterator[Path]:
    """A folder of masks that stays when the block fails, and that a run with the same input and parameters finds."""
    inputs = [folder / f"{name}.zip" for name in names for folder in (folders.frames, folders.predictions)]
    for path in inputs[::2]:
        check_frames(path)
    key = run_key("refine", [params, threshold], *inputs)
    kind = folders.masks.name  # another run of the same stage refines the papers' masks
    with kept_folder(folders.kept or folders.masks, key.replace("-", f"_{kind}-"), ["masks"]) as folder:
        yield folder / "masks"


def _refine_frames(
    name: str, span: range, folders: RefineFolders, params: CRFParams, rest: tuple[float, Path | None]
) -> list[bytes]:
    """The final masks of some frames of a sequence, as PNG files; b"" where none was predicted."""
    threshold, parts = rest
    part = None if parts is None else parts / f"{name}.{span.start}.zip"
    if part is not None and part.is_file():
        done = dict(archive_entries(part))
        return [done.get(entry(t), b"") for t in span]
    predictions = folders.predictions / f"{name}.zip"
    images, soft = cached_open(open_frames, folders.frames / f"{name}.zip"), cached_open(Predictions, predictions)
    result = []
    for t in span:
        if folders.truth_alone and not soft.has(t) and not images.has_mask(t):
            result.append(b"")
            continue
        try:
            mask = soft.soft(t) > threshold
            if params.enabled:  # else a video that is not stored need not be decoded
                box = best_finding(soft.box[t], soft.p[t])
                mask = refine(images.image(t), soft.soft(t), threshold, params, box)
        except BackdropError as fault:
            raise BackdropError(f"{predictions}, frame {t}: {fault}") from fault
        mask = within_region(mask, images.region)  # the CRF may reach beyond it
        result.append(encode_png(mask.view(np.uint8) * 255))
    if part is not None:
        with PartWriter(part, folders.masks / f"{name}.zip") as archive:
            for t, png in zip(span, result, strict=True):
                if png:
                    archive.add(entry(t), png)
    return result
