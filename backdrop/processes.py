"""Work spread over processes: the one place that knows joblib's habits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import cv2
from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm import tqdm

from backdrop.errors import BackdropError

Result = TypeVar("Result")


def collect(
    function: Callable[..., Result], calls: Sequence[tuple], workers: int, description: str, unit: str
) -> list[Result]:
    """`each` to its end, with a progress bar on stderr, whose unit is a call."""
    return list(tqdm(each(function, calls, workers), total=len(calls), desc=description, unit=unit, disable=None))


def each(function: Callable[..., Result], calls: Sequence[tuple], workers: int = 0) -> Generator[Result, None, None]:
    """`function(*call)` for each call, in processes; the results in the order of the calls, as they come.

    OpenCV and BLAS get the cores that are left over: all where there is a single call, one each where there are at
    least as many calls as workers.

    Args:
        workers: processes; 0: one a core; 1, or a single call: this process.

    Raises:
        BackdropError: the first call's that has one. No call is begun after it, and those under way are let finish:
            were it raised in its process, joblib would kill the others in the middle of their files.
    """
    cores = workers or cpu_count()
    jobs = max(1, min(cores, len(calls)))
    threads = max(1, cores // jobs)
    fault: BackdropError | None = None
    left = False

    def tasks() -> Iterator[Any]:
        for call in calls:
            if fault or left:
                return
            yield delayed(_call)(function, call, threads)

    with parallel_config(backend="loky", inner_max_num_threads=threads):
        results = Parallel(n_jobs=jobs, return_as="generator")(tasks())
    try:
        for result in results:
            if fault is None and isinstance(result, BackdropError):
                fault = result
            elif fault is None:
                yield result
    except GeneratorExit:  # the caller has a fault of its own
        left = True
        for _ in results:
            pass
        raise
    if fault is not None:
        raise fault


def _call(function: Callable[..., Result], call: tuple, threads: int) -> Result | BackdropError:
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        return function(*call)
    except BackdropError as fault:
        return fault
    finally:
        cv2.setNumThreads(before)
