"""Sequences in chunks of frames: spread over processes, and joined again in their order.

A long video then uses all cores, also when it is the last one. A chunk has the same frames on every machine, so that
no result depends on the machine. Images go from process to process as files, the parts of an archive: the memory of a
process does not grow with the sequence, and processes on other machines need only the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from backdrop.run.processes import each, no_bar

ChunkResult = TypeVar("ChunkResult")

Opened = TypeVar("Opened")

Item = TypeVar("Item")


def spans(count: int, length: int) -> list[range]:
    """Frames 0 to `count` - 1 in chunks of `length` frames, the last with the rest; of no frames one empty chunk."""
    return [range(start, min(start + length, count)) for start in range(0, max(count, 1), length)]


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly from the first to the last."""
    return [items[k] for k in np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)]


def by_sequence(
    function: Callable[..., ChunkResult],
    counts: Mapping[str, int],
    length: int,
    rest: tuple,
    *,
    workers: int,
    title: str,
    gpu: bool = False,
) -> Generator[tuple[str, Iterator[ChunkResult]], None, None]:
    """Call `function(name, span, *rest)` for each chunk of each sequence, in processes, with progress on stderr.

    Close it (`contextlib.closing`) when leaving it early: chunks under way then finish.

    Args:
        function: takes a sequence's name, a range of its frames, and `rest`.
        counts: sequence -> how many frames it has.
        length: frames of a chunk.
        rest: the function's other arguments.
        workers, gpu: see `processes.each`.
        title: stands before the progress bar.

    Returns:
        For each sequence its name and the results of its chunks in order, as they come.

    Raises:
        BackdropError: the first chunk's that has one.
    """
    chunks = [(name, span) for name, count in counts.items() for span in spans(count, length)]
    with (
        closing(each(function, [(*chunk, *rest) for chunk in chunks], workers, gpu)) as results,
        tqdm(total=sum(counts.values()), desc=title, unit="frame", disable=no_bar()) as progress,
    ):

        def results_with_names() -> Iterator[tuple[str, ChunkResult]]:
            for (name, span), result in zip(chunks, results, strict=True):
                progress.update(len(span))
                yield name, result

        try:
            for name, pairs in groupby(results_with_names(), key=lambda pair: pair[0]):
                yield name, (result for _, result in pairs)
        finally:
            _cached.cache_clear()


def cached_open(opener: Callable[..., Opened], path: Path, *rest: Hashable) -> Opened:
    """The result of `opener(path, *rest)`, the same object for all chunks as long as the file (or folder) is unchanged.

    To open an archive of an hour's frames, or to load a model, takes more than a second: longer than some chunks take.
    """
    try:
        state = path.stat()
    except OSError:
        return opener(path, *rest)  # its error says what is missing
    return _cached(opener, path, rest, (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))


@contextmanager
def one_thread(device: str = "cpu") -> Iterator[None]:
    """On the CPU one thread of PyTorch computes: with several, sums differ in their last bits by the number of cores.

    The other cores have other chunks.
    """
    import torch  # takes seconds

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=8)  # what a chunk of the stage score reads
def _cached(opener: Callable[..., Any], path: Path, rest: tuple, state: tuple) -> Any:
    return opener(path, *rest)
