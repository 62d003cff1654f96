"""Stage segment: soft masks, boxes, cell probabilities, and the threshold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter, PartWriter, archive_entries
from backdrop.io.files import copy_files, kept_folder, parts_folder
from backdrop.io.frame_archive import FrameArchive, frame_counts
from backdrop.io.images import encode_png
from backdrop.io.index import is_streamed, read_videos
from backdrop.io.masks import BOXES, Mask, Soft, entry, within_region, write_threshold
from backdrop.io.pose_boxes import pose_boxes
from backdrop.learn.source_files import run_key
from backdrop.networks.predictor import NO_MASK, Prediction, Predictor, tighten
from backdrop.run.chunks import by_sequence, cached_open, one_thread
from backdrop.run.processes import device_there
from backdrop.run.threads import ahead
from backdrop.segment.parameters import SegmentParams
from backdrop.segment.temporal import pooled
from backdrop.video.streamed import check_frames, open_frames

CPU_BATCH = 4
"""Images at a time on a CPU, at most. (Of a student of 320 x 192, 16 take 1.4 times as long and 250 MB more.)"""

SEGMENT_CHUNK = 32
"""Frames per task, less what does not fill a batch: which frames share a batch does not depend on chunks."""


STREAMED_CHUNK = 256
"""The same of videos that are not stored. What is lost when a run is stopped."""

MOST_IN_TURN = 8192
"""Frames of a video that is not stored that a process segments in one turn, at most: some minutes."""


STREAMED_LEVELS = 64
"""Values of a soft mask in the archive of a video that is not stored: a third less on disk than with all 256."""


@dataclass(frozen=True)
class SegmentFolders:
    """Where the stage reads and writes. A sequence's file in each folder bears its name.

    Attributes:
        model: the model folder.
        frames: archives of frames, and index.csv.
        predictions: gets what ships, and its threshold.
        predictions_paper: gets what D and S find alone, and a threshold of its own; archives of sequences without
            ground truth only if `SegmentParams.paper` is "all". Of videos that are not stored (`data.budget`), unless
            that is so, only frames with ground truth have a mask. Where the model has no student, it is a copy of
            `predictions`.
        kept: folder outside of the outputs, where a run that is stopped leaves what it has of videos that are not
            stored (`data.budget`), for the next one; None: nothing is left.
    """

    model: Path
    frames: Path
    predictions: Path
    predictions_paper: Path
    kept: Path | None = None


ThresholdChoice = Callable[[Path, Path], tuple[float, str]]
"""(folder of frames, folder of predictions) -> (threshold, what it was chosen on)."""


def segment_all(
    folders: SegmentFolders, params: SegmentParams, workers: int, device: str, choose_threshold: ThresholdChoice
) -> dict[str, Any]:
    """Segment every sequence that is not for training alone. Choose the threshold and write threshold.json.

    Args:
        workers: processes; 0: one per core.
        device: "auto", "cpu" or "cuda[:n]".
        choose_threshold: chooses by validation sequences with ground truth. It is asked only when `params.threshold`
            is null. Without validation truth the student's threshold is taken (`SelfTraining._threshold`).

    Returns:
        What threshold.json of `folders.predictions` holds.

    Raises:
        BackdropError: the model does not fit, no sequence is there to segment, or an archive is damaged.
    """
    # The model is loaded here, too: a wrong folder is named once, not by every process.
    student = Predictor.load(folders.model, device).student
    fallback = None if student is None else student.threshold
    index = read_videos(folders.frames, usable=True)
    index = index[index["split"] != "train"]
    names = index["sequence"].tolist()
    if not names:
        raise BackdropError(f"{folders.frames} lists no sequence to segment: all are in the training split")
    outs = [folders.predictions] if student is None else [folders.predictions, folders.predictions_paper]
    for out in outs:
        out.mkdir(parents=True, exist_ok=True)
    gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    masked = set(index[index["masks"] > 0]["sequence"])
    both = frozenset(
        name
        for name in names
        if params.paper == "all" or name in masked or pose_boxes(folders.frames / f"{name}.zip") is not None
    )
    streamed, batch = is_streamed(folders.frames), params.batch if gpu else min(params.batch, CPU_BATCH)
    task = _Task(folders.model, folders.frames, (), both, batch, params.temporal, device_there(device, gpu))
    if streamed:
        keep, truth_alone = folders.kept is not None, params.paper != "all"
        task = task._replace(keep=keep, levels=STREAMED_LEVELS, truth_alone=truth_alone)
    with _parts(folders, params, names) as parts:
        task = task._replace(outs=tuple((out, parts / kind) for out, kind in zip(outs, _KINDS, strict=False)))
        _segment_files(task, names, workers, gpu)
    results = []
    for out in outs:
        threshold, chosen_on = (
            choose_threshold(folders.frames, out) if params.threshold is None else (params.threshold, "params")
        )
        if chosen_on == "default" and fallback is not None and out == folders.predictions:
            threshold, chosen_on = fallback, "pseudo-masks"
        results.append(write_threshold(out, threshold, chosen_on))
    if student is None:
        copy_files(folders.predictions, folders.predictions_paper)
    return results[0]


class _Task(NamedTuple):
    """What all chunks share.

    outs: folders of archives, each with the folder for the parts of its archives. The first gets what ships. The
    second, if there is one, gets what D and S find alone, of the sequences `both`. temporal: frames on each side that a
    mask is pooled over. keep: parts stay after they were joined. levels: values of a stored soft mask. truth_alone:
    the second gets masks of frames with ground truth alone.
    """

    model: Path
    frames: Path
    outs: tuple[tuple[Path, Path], ...]
    both: frozenset[str]
    batch: int
    temporal: int
    device: str
    keep: bool = False
    levels: int = 256
    truth_alone: bool = False

    def of(self, name: str) -> _Task:
        """The task with those of its folders that a sequence gets."""
        return self if name in self.both else self._replace(outs=self.outs[:1])


class _Seen(NamedTuple):
    """A frame and what was predicted of it: what ships, and perhaps what D and S find alone."""

    t: int
    image: np.ndarray
    predictions: tuple[Prediction, ...]


_KINDS = ("shipped", "paper")
"""The folders of parts."""


@contextmanager
def _parts(folders: SegmentFolders, params: SegmentParams, names: list[str]) -> Iterator[Path]:
    """A folder for the parts of archives, with a folder for each kind of them. Videos that are not stored take hours:
    their parts stay when the block fails, and another run with the same model, parameters and footage finds them."""
    if folders.kept is None or not is_streamed(folders.frames):
        with parts_folder(folders.predictions) as parts:
            for kind in _KINDS:
                (parts / kind).mkdir()
            yield parts
        return
    archives = [folders.frames / f"{name}.zip" for name in names]
    for path in archives:
        check_frames(path)
    model = sorted(path for path in folders.model.rglob("*") if path.is_file())
    with kept_folder(folders.kept, run_key("segment", [params], *model, *archives), _KINDS) as parts:
        yield parts


def _segment_files(task: _Task, names: list[str], workers: int, gpu: bool) -> None:
    """Write the archive of each sequence into its folders: soft masks as 8-bit PNG, and `predictions.npz`."""
    frames = SEGMENT_CHUNK * (4 if task.temporal else 1)  # with `temporal`, a chunk needs frames beside it, too
    if is_streamed(task.frames):
        frames = STREAMED_CHUNK
    counts, length = frame_counts(task.frames, names), task.batch * max(1, frames // task.batch)
    turn = _turn_frames(counts, length, workers) if is_streamed(task.frames) else length
    found = by_sequence(_segment_chunks, counts, turn, (length, task), workers=workers, title="segment", gpu=gpu)
    with closing(found):
        for name, turns in found:
            chunks = chain.from_iterable(turns)
            _join_parts([out / f"{name}.zip" for out, _ in task.of(name).outs], chunks, task.keep)


def _turn_frames(counts: Mapping[str, int], length: int, workers: int) -> int:
    """Frames that a process gets of a video at a time, in whole chunks of `length`.

    A process decodes a video from its beginning and passes over what others segment. Where there are enough videos for
    all processes, each gets long pieces, at best whole videos; else each gets a chunk in turn.
    """
    pieces = -(-2 * workers // len(counts))  # of a video: two for each process, over all videos
    if pieces >= workers:
        return length
    return length * max(1, min(MOST_IN_TURN // length, -(-max(counts.values()) // (pieces * length))))


def _join_parts(paths: Sequence[Path], chunks: Iterable[Sequence[Path]], keep: bool) -> None:
    """The archives of a sequence from their parts."""
    with ExitStack() as stack:
        archives = [stack.enter_context(ArchiveWriter(path)) for path in paths]
        facts: list[list[dict[str, np.ndarray]]] = [[] for _ in paths]
        for parts in chunks:
            for archive, rows, part in zip(archives, facts, parts, strict=True):
                for name, data in archive_entries(part):
                    if name == BOXES:
                        rows.append(dict(np.load(BytesIO(data))))
                    else:
                        archive.add(name, data)
                if not keep:
                    part.unlink()
        for archive, rows in zip(archives, facts, strict=True):
            archive.add(BOXES, _packed({key: np.concatenate([row[key] for row in rows]) for key in rows[0]}))


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    stored = BytesIO()
    np.savez(stored, **arrays)  # type: ignore[arg-type] # of keywords mypy takes the first one's type
    return stored.getvalue()


def _segment_chunks(name: str, span: range, length: int, task: _Task) -> list[list[Path]]:
    """The parts of each chunk of a piece of a sequence."""
    starts = range(span.start, max(span.stop, span.start + 1), length)
    return [_segment_chunk(name, range(start, min(start + length, span.stop)), task) for start in starts]


def _segment_chunk(name: str, span: range, task: _Task) -> list[Path]:
    """Segment some frames of a sequence: a part per folder that it gets, complete or not there."""
    task = task.of(name)
    paths = [parts / f"{name}.{span.start}.zip" for _, parts in task.outs]
    if all(path.is_file() for path in paths):
        return paths
    predictor = cached_open(Predictor.load, task.model, task.device)
    again = 2 * (task.temporal + task.batch) if task.temporal else 1  # frames that the next chunk needs, too
    frames = cached_open(open_frames, task.frames / f"{name}.zip", again)
    facts: list[list[Prediction]] = [[] for _ in task.outs]
    with ExitStack() as stack:
        stack.enter_context(one_thread(predictor.device.type))
        archives = [
            stack.enter_context(PartWriter(path, out / f"{name}.zip"))
            for path, (out, _) in zip(paths, task.outs, strict=True)
        ]
        seen = _predict(predictor, frames, span, task)
        for t, found in _pool(seen, span, task.temporal, predictor.box_level, frames.region):
            for archive, rows, prediction in zip(archives, facts, found, strict=True):
                if prediction.mask.size:
                    archive.add(entry(t), encode_png(_in_levels(prediction.mask, task.levels)))
                rows.append(prediction._replace(mask=NO_MASK))
        for archive, rows in zip(archives, facts, strict=True):
            archive.add(BOXES, _packed({key: np.array([getattr(row, key) for row in rows]) for key in _FACTS}))
    return paths


def _in_levels(mask: Soft, levels: int) -> UInt8[np.ndarray, "H W"]:
    """A soft mask in [0, 1] as 0 to 255, in so many steps."""
    return ((mask * (levels - 1)).round() * (255 / (levels - 1))).round().astype(np.uint8)


_FACTS = ("box", "cell", "p")
"""Of a `Prediction`, what `predictions.npz` holds of each frame: (4,), a number, (rows, columns)."""


def _predict(predictor: Predictor, frames: FrameArchive, span: range, task: _Task) -> Iterator[_Seen]:
    """The frames of a span and those that their masks are pooled over, by whole batches: which frames share a batch
    does not depend on chunks."""
    first = max(0, (span.start - task.temporal) // task.batch * task.batch)
    end = min(len(frames), -(-(span.stop + task.temporal) // task.batch) * task.batch) if task.temporal else span.stop
    batches = (
        (t0, [frames.image(t) for t in range(t0, min(t0 + task.batch, end))]) for t0 in range(first, end, task.batch)
    )
    for start, images in ahead(batches):
        truth = [not task.truth_alone or frames.has_mask(start + i) for i in range(len(images))]
        found = _predict_kinds(predictor, images, len(task.outs), frames.region, truth)
        for t, image, predictions in zip(range(start, end), images, found, strict=False):
            yield _Seen(t, image, predictions)


def _pool(
    seen: Iterable[_Seen], span: range, reach: int, box_level: float, region: Mask | None
) -> Iterator[tuple[int, tuple[Prediction, ...]]]:
    """The frames of the span, the first mask of each pooled over `reach` frames on each side, its box drawn to it."""
    if not reach:
        yield from ((t, predictions) for t, _, predictions in seen)
        return
    near: deque[_Seen] = deque()
    waiting = deque(span)

    def done(t: int) -> tuple[int, tuple[Prediction, ...]]:
        around = [one for one in near if abs(one.t - t) <= reach]
        at = next(k for k, one in enumerate(around) if one.t == t)
        first, *others = around[at].predictions
        mask = pooled([one.image for one in around], [one.predictions[0].mask for one in around], at)
        mask = within_region(mask, region)
        return t, (first._replace(mask=mask, box=tighten(first.box, mask, box_level)), *others)

    for one in seen:
        near.append(one)
        while waiting and one.t >= waiting[0] + reach:
            yield done(waiting.popleft())
        while waiting and near and near[0].t < waiting[0] - reach:
            near.popleft()
    yield from (done(t) for t in waiting)


def _predict_kinds(
    predictor: Predictor, images: Sequence[np.ndarray], kinds: int, region: Mask | None, asked: Sequence[bool]
) -> Sequence[tuple[Prediction, ...]]:
    """Per image what ships; with two kinds also what D and S find alone, with a mask where it is asked for."""
    if kinds == 1:
        return [(prediction,) for prediction in predictor.predict_batch(images, region=region)]
    found = predictor.predict_both(images, region, synthesize=any(asked))
    if predictor.student is None:
        return found
    return [
        (shipped, alone if mask else alone._replace(mask=NO_MASK))
        for (shipped, alone), mask in zip(found, asked, strict=True)
    ]
