"""Calls spread over processes, here or on a cluster. Only this module and `cluster` use joblib."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import cv2
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from backdrop.errors import BackdropError
from backdrop.run.cluster import Cluster, ClusterBackend, connect, inside
from backdrop.run.compute import ComputeParams

Result = TypeVar("Result")

BARS = "BACKDROP_BARS"
"""Set in the environment by `backdrop train`, which reads the stages' progress bars from a pipe."""

_cluster: ContextVar[Cluster | None] = ContextVar("cluster", default=None)
"""The cluster of the `pool` that is open."""


def collect(
    function: Callable[..., Result],
    arguments: Sequence[tuple],
    workers: int,
    *,
    title: str,
    unit: str,
    gpu: bool = False,
) -> list[Result]:
    """`each` to its end, with a progress bar on stderr.

    Args:
        function, arguments, workers, gpu: see `each`.
        title: stands before the bar.
        unit: what one call does, such as "sequence".
    """
    results = each(function, arguments, workers, gpu)
    return list(tqdm(results, total=len(arguments), desc=title, unit=unit, disable=no_bar()))


def no_bar() -> bool | None:
    """tqdm's `disable`: no bar where stderr is no terminal, unless who reads it there asked for bars."""
    return False if BARS in os.environ else None


@contextmanager
def pool(compute: ComputeParams) -> Iterator[int]:
    """Say where `each` and `collect` run their calls inside this context: here in processes, or on a cluster.

    Yields:
        How many calls run at a time. With loky that is `compute.workers`; 0 means the cores that this process may use
        (its affinity and a container's limit count). On a cluster it is the number of its workers.

    Raises:
        BackdropError: the cluster's package is missing, or the cluster does not answer.
    """
    workers = compute.workers or cpu_count()
    if compute.backend == "loky":
        yield workers
        return
    with connect(compute.backend, compute.address, workers) as cluster:
        before = _cluster.set(cluster)
        try:
            yield cluster.workers()
        finally:
            _cluster.reset(before)


def each(
    function: Callable[..., Result], arguments: Sequence[tuple], workers: int = 0, gpu: bool = False
) -> Generator[Result, None, None]:
    """Call `function(*one)` for each tuple of arguments, in processes; yield the results in that order, as they come.

    OpenCV and BLAS share the cores that are left over: a single call gets all of them. With at least as many calls as
    workers each call gets one core.

    Inside a `pool` on a cluster all calls go there, whatever `workers` is, and each gets one core. Relative paths are
    those of this process. When a worker dies, only the call that it was running is begun again. Without a cluster,
    when a process dies, all calls whose results were not yet yielded are begun again, once.

    Args:
        function: can be pickled.
        arguments: those of each call.
        workers: processes. 0: one per core. 1, or a single call: this process.
        gpu: each call needs a GPU to itself. With Dask that is a worker that declares one (`--resources GPU=1`), with
            Ray one of its GPUs. Without a cluster all calls run in this process, one after another.

    Raises:
        BackdropError: that of the first call that raises one. No call is begun after it, and those under way finish:
            raised in its own process, it would make joblib kill the others in the middle of their files. Or: there is
            no GPU in the cluster, or a call killed its worker each time.
        TerminatedWorkerError: without a cluster, a process was killed for the second time.
    """
    handed = 0
    for last in (False, True):
        parallel, threads, folder = _parallel(len(arguments), workers, gpu)
        tasks = [(function, one, threads, folder) for one in arguments[handed:]]
        try:
            with closing(_results_in_order(parallel, tasks)) as results:
                for result in results:
                    handed += 1
                    yield result
            return
        except TerminatedWorkerError:
            if last:
                raise


def threads_each(count: int, workers: int) -> int:
    """Cores for each of `count` calls that run at a time, of `workers` (0: all); a worker of a cluster has one."""
    return 1 if _cluster.get() is not None else max(1, (workers or cpu_count()) // count)


def device_there(device: str, gpu: bool) -> str:
    """`compute.device` as a call is to take it. A worker of a cluster sees only the GPU that was given to it, or it is
    to use no GPU."""
    if _cluster.get() is None:
        return device
    return "cuda" if gpu else "cpu"


def _parallel(count: int, workers: int, gpu: bool) -> tuple[Parallel, int, str | None]:
    """joblib's object for `count` calls, the threads of each call, and the folder that a worker changes to."""
    cluster = _cluster.get()
    if cluster is not None:
        size = cluster.workers(gpu)
        if gpu and not size:
            raise BackdropError(
                "no worker of the cluster at compute.address declares a GPU: start one that does (`dask worker "
                "ADDRESS --nthreads 1 --resources GPU=1`, `ray start --num-gpus 1`), or set compute.device to cpu"
            )
        return Parallel(size, return_as="generator", backend=ClusterBackend(cluster, gpu)), 1, os.getcwd()
    jobs = 1 if gpu else max(1, min(workers or cpu_count(), count))
    threads = threads_each(jobs, workers)
    with parallel_config(backend="loky", inner_max_num_threads=threads):
        return Parallel(n_jobs=jobs, return_as="generator"), threads, None


def _results_in_order(parallel: Parallel, arguments: Sequence[tuple]) -> Generator[Any, None, None]:
    """The results of `_call`. When one is a fault, or the caller has one, it ends as `each` describes."""
    fault: BackdropError | None = None
    left = False

    def tasks() -> Iterator[Any]:
        for one in arguments:
            if fault or left:
                return
            yield delayed(_call)(*one)

    results = parallel(tasks())
    try:
        for result in results:
            if fault is None and isinstance(result, BackdropError):
                fault = result
            elif fault is None:
                yield result
    except GeneratorExit:  # the caller has a fault of its own
        left = True
        with suppress(Exception):  # of a worker that dies now, say: the caller's fault counts
            for _ in results:
                pass
        raise
    if fault is not None:
        raise fault


def _call(
    function: Callable[..., Result], arguments: tuple, threads: int, folder: str | None
) -> Result | BackdropError:
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        with inside(folder) if folder else nullcontext():
            return function(*arguments)
    except BackdropError as fault:
        return fault
    finally:
        cv2.setNumThreads(before)
