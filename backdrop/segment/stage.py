"""Stage segment: soft masks, boxes, cell probabilities, and the threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter, PartWriter
from backdrop.io.files import copy_files, parts_folder
from backdrop.io.frame_archive import FrameArchive, frame_counts
from backdrop.io.images import encode_png
from backdrop.io.index import read_index
from backdrop.io.masks import BOXES, entry, write_threshold
from backdrop.networks.segmenter import Prediction, Segmenter
from backdrop.run.chunks import by_sequence, cached_open
from backdrop.run.processes import device_there
from backdrop.segment.parameters import SegmentParams

SEGMENT_CHUNK = 32
"""Frames a task, or the whole batches that are in them: which frames share a batch does not depend on chunks."""


def _npz(**arrays: np.ndarray) -> bytes:
    """Arrays as the bytes of an npz whose content depends on the arrays alone (np.savez writes the time)."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())
    return buffer.getvalue()


def segment_all(
    model_dir: Path,
    frames_dir: Path,
    out_dir: Path,
    paper_dir: Path,
    params: SegmentParams,
    workers: int,
    device: str,
    choose_threshold: Callable[[Path, Path], tuple[float, str]],
) -> dict[str, Any]:
    """Segment every sequence that is not for training alone; choose the threshold and write threshold.json.

    Args:
        out_dir: gets what ships. paper_dir: gets what D and S find alone, and a threshold of its own; a copy of
            `out_dir` where the model has no student.
        choose_threshold: (frames_dir, predictions_dir) -> (threshold, what it was chosen on), by validation
            sequences with ground truth; asked only when `params.threshold` is null. Without validation truth the
            student's own threshold is taken (`SelfTraining._threshold`).

    Returns:
        What threshold.json of `out_dir` holds.
    """
    # loaded here, too: a wrong folder is named once, not by every process
    student = Segmenter.load(model_dir, device).student
    index = read_index(frames_dir, usable=True)
    names = index[index["split"] != "train"]["sequence"].tolist()
    if not names:
        raise BackdropError(f"{frames_dir}/index.csv lists no sequence to segment: all are in the training split")
    folders = [out_dir] if student is None else [out_dir, paper_dir]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    there = device_there(device, cuda)
    _segment_files(model_dir, frames_dir, folders, names, params.batch, workers, there, cuda)
    own = None if student is None else student.threshold
    results = [
        _write_threshold(frames_dir, folder, params.threshold, choose_threshold, own if folder == out_dir else None)
        for folder in folders
    ]
    if student is None:
        copy_files(out_dir, paper_dir)
    return results[0]


def _write_threshold(
    frames_dir: Path,
    folder: Path,
    given: float | None,
    choose: Callable[[Path, Path], tuple[float, str]],
    own: float | None,
) -> dict[str, Any]:
    """Args: own: the model's own threshold, taken where neither parameters nor validation truth give one."""
    threshold, chosen_on = choose(frames_dir, folder) if given is None else (given, "params")
    if chosen_on == "default" and own is not None:
        threshold, chosen_on = own, "pseudo-masks"
    return write_threshold(folder, threshold, chosen_on)


class _Part(NamedTuple):
    """What a chunk of n frames has given for one folder: the part of its archive, and box (n, 4), cell (n,) and p
    (n, rows, columns) of its frames."""

    path: Path
    box: np.ndarray
    cell: np.ndarray
    p: np.ndarray


def _segment_files(
    model_dir: Path,
    frames_dir: Path,
    folders: Sequence[Path],
    names: list[str],
    batch: int,
    workers: int,
    device: str,
    gpu: bool,
) -> None:
    """Write the archive of each sequence (soft masks as 8-bit PNG, `predictions.npz`): into the first folder what
    ships, into the second, if there is one, what D and S find alone."""
    counts, length = frame_counts(frames_dir, names), batch * max(1, SEGMENT_CHUNK // batch)
    with ExitStack() as stack:
        places = [(folder, stack.enter_context(parts_folder(folder))) for folder in folders]
        rest = (model_dir, frames_dir, places, batch, device)
        found = by_sequence(_segment_chunk, counts, length, rest, workers=workers, title="segment", gpu=gpu)
        for name, chunks in stack.enter_context(closing(found)):
            _join([folder / f"{name}.zip" for folder in folders], chunks)


def _join(paths: Sequence[Path], chunks: Iterable[Sequence[_Part]]) -> None:
    """The archives of a sequence from their parts."""
    with ExitStack() as stack:
        archives = [stack.enter_context(ArchiveWriter(path)) for path in paths]
        facts: list[list[tuple]] = [[] for _ in paths]
        for parts in chunks:
            for archive, own, part in zip(archives, facts, parts, strict=True):
                archive.join(part.path)
                own.append(part[1:])
        for archive, own in zip(archives, facts, strict=True):
            box, cell, p = (np.concatenate(arrays) for arrays in zip(*own, strict=True))
            archive.add(BOXES, _npz(box=box, cell=cell, p=p))


def _segment_chunk(
    name: str,
    span: range,
    model_dir: Path,
    frames_dir: Path,
    places: Sequence[tuple[Path, Path]],
    batch: int,
    device: str,
) -> list[_Part]:
    """Args: places: of each folder itself, and where its archives' parts go."""
    segmenter = cached_open(Segmenter.load, model_dir, device)
    frames = cached_open(FrameArchive, frames_dir / f"{name}.zip")
    paths = [parts / f"{name}.{span.start}.zip" for _, parts in places]
    facts: list[list[tuple]] = [[] for _ in places]
    with ExitStack() as stack:
        stack.enter_context(_one_thread(segmenter.device))
        archives = [
            stack.enter_context(PartWriter(path, folder / f"{name}.zip"))
            for path, (folder, _) in zip(paths, places, strict=True)
        ]
        for start in span[::batch]:
            images = [frames.image(t) for t in range(start, min(start + batch, span.stop))]
            for t, found in enumerate(_predict_kinds(segmenter, images, len(places)), start):
                for archive, own, prediction in zip(archives, facts, found, strict=True):
                    archive.add(entry(t), encode_png((prediction.mask * 255).round().astype(np.uint8)))
                    own.append((prediction.box, prediction.cell, prediction.p))
    return [
        _Part(path, *(np.array(values) for values in zip(*own, strict=True)))
        for path, own in zip(paths, facts, strict=True)
    ]


def _predict_kinds(segmenter: Segmenter, images: Sequence[np.ndarray], kinds: int) -> Sequence[tuple[Prediction, ...]]:
    """Of each image what ships; with two kinds also what D and S find alone."""
    if kinds == 1:
        return [(prediction,) for prediction in segmenter.predict_batch(images)]
    return segmenter.predict_both(images)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On the CPU one thread computes: sums of several differ in their last bits, by the number of cores. The others
    have chunks of their own."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
