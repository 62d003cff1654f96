"""Dask and Ray behind one interface, and as a backend of joblib. No other module uses them.

Both are optional (`pip install -e '.[cluster]'`) and imported when `compute.backend` asks for them.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import chdir, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from joblib.parallel import ParallelBackendBase

from backdrop.errors import BackdropError

CONNECT_PATIENCE = 10.0
"""Seconds that a scheduler has to answer, and a worker to appear."""

RETRIES = 3
"""How often a call is begun again after its worker died."""

_ADDRESSES = {
    "dask": (re.compile(r"(?:tcp://)?\[?([\w.:-]+?)\]?:(\d+)"), "tcp://host:8786"),
    "ray": (
        re.compile(r"\[?([\w.:-]+?)\]?:(\d+)|auto"),
        "host:6379, or auto for the one of this machine",
    ),
}


class Cluster(ABC):
    """Workers elsewhere, each of which runs one call at a time."""

    @abstractmethod
    def workers(self, gpu: bool = False) -> int:
        """How many calls run at a time; `gpu`: calls that need a GPU. As the cluster stands now."""

    @abstractmethod
    def submit(self, batch: Callable[[], Any], gpu: bool) -> Any:
        """Begin a call; a future with `add_done_callback`, whose callbacks may submit more."""

    @abstractmethod
    def result(self, future: Any, timeout: float | None = None) -> Any:
        """What a call returned or raised; waits for it, `timeout` seconds at most.

        Raises:
            BackdropError: the call killed its worker each time, or the cluster went away.
            TimeoutError: it has not ended.
        """

    @abstractmethod
    def cancel(self, futures: Iterable[Any]) -> None:
        """Do not begin those of these calls that have not begun. Those under way end by themselves."""


class ClusterBackend(ParallelBackendBase):
    """joblib's view of a cluster.

    Why not joblib's backend for Dask: when a worker was killed too often it returns nothing, and so waits for ever.
    Where the cluster has a single worker it runs the calls in this process. It makes batches of calls, and one call
    that kills its worker costs the batch. Why not Ray's: it is a pool of actors, which returns no result before the
    last call has ended.
    """

    supports_retrieve_callback = True

    def __init__(self, cluster: Cluster, gpu: bool) -> None:
        super().__init__()
        self.cluster = cluster
        self.gpu = gpu
        self.waiting: set[Any] = set()

    def effective_n_jobs(self, n_jobs: int) -> int:
        return max(2, n_jobs)  # at 1 joblib would run the calls in this process

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        future = self.cluster.submit(func, self.gpu)
        self.waiting.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        self.waiting.discard(out)
        return self.cluster.result(out)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        waiting, self.waiting = self.waiting, set()
        self.cluster.cancel(waiting)


@contextmanager
def inside(folder: str) -> Iterator[None]:
    """In a worker: relative paths are those of the caller.

    Raises:
        BackdropError: this machine has no such folder.
    """
    try:
        change = chdir(folder)
        change.__enter__()
    except OSError as fault:
        raise BackdropError(
            f"the worker on {socket.gethostname()} cannot enter {folder} ({fault.strerror}): "
            "the project must lie on a disk that all nodes see at the same path"
        ) from None
    try:
        yield
    finally:
        change.__exit__()


@contextmanager
def connect(backend: str, address: str | None, workers: int) -> Iterator[Cluster]:
    """The cluster at `address`, or one of this machine's cores that ends with the context.

    Args:
        backend: dask or ray. workers: processes of a cluster that is started here.

    Raises:
        BackdropError: the package is not installed, nobody listens at the address, or no worker appears.
    """
    if address is not None:
        _check_address(backend, address)
    with (_dask if backend == "dask" else _ray)(address, workers) as cluster:
        _check_workers(cluster, backend, address)
        yield cluster


def _import_optional(backend: str, package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as fault:
        raise BackdropError(
            f"compute.backend={backend} needs the package {package} ({fault}): "
            f"`pip install {package}`, or the extra of this project: `pip install -e '.[cluster]'`"
        ) from None


def _check_address(backend: str, address: str) -> None:
    """Raise for a wrong address at once: Dask and Ray try for a minute, and print a lot."""
    pattern, form = _ADDRESSES[backend]
    found = pattern.fullmatch(address)
    if found is None:
        raise BackdropError(f"compute.address={address!r} is no address for compute.backend={backend}: give {form}")
    host, port = found.groups()
    if host is None:
        return
    try:
        with socket.create_connection((host, int(port)), CONNECT_PATIENCE / 2) as line:
            first = line.recv(8)
    except (OSError, OverflowError) as fault:
        raise _no_answer(backend, address, fault) from None
    # Both speak first: Dask the length of its greeting, Ray a frame of HTTP/2's settings, which are of type 4.
    if len(first) < 8 or (first[2:] != bytes(6) if backend == "dask" else first[3] != 4):
        raise _no_answer(backend, address, "what listens there is something else")


def _no_answer(backend: str, address: str, why: object) -> BackdropError:
    start = "dask scheduler" if backend == "dask" else "ray start --head"
    said = " ".join(str(why).split()) or type(why).__name__
    return BackdropError(
        f"no {backend.capitalize()} cluster answers at compute.address={address} ({said}): start one (`{start}`), "
        "correct the address, or set it to null for a cluster of this machine's cores"
    )


def _check_workers(cluster: Cluster, backend: str, address: str | None) -> None:
    """Check that a worker appears, can import this code, and sees this folder.

    A call finds that out, not a count: a cluster may start its workers for the first call. If there are workers but
    the call does not end in time, they are busy for others, which is not an error.
    """
    future = cluster.submit(partial(_check_folder, os.getcwd()), gpu=False)
    try:
        fault = cluster.result(future, CONNECT_PATIENCE)
    except TimeoutError:
        if cluster.workers():
            return
        how = f"dask worker {address} --nthreads 1" if backend == "dask" else f"ray start --address {address}"
        raise BackdropError(
            f"the {backend.capitalize()} cluster at compute.address={address} has no worker: start some (`{how}`), "
            "in an environment that has this project: a worker that cannot import it ends"
        ) from None
    except (ImportError, RuntimeError) as failed:
        raise BackdropError(
            f"workers of the {backend.capitalize()} cluster at compute.address={address} cannot run this project "
            f"({' '.join(str(failed).split())}): install it in the environment of each (`pip install -e .`)"
        ) from None
    if fault is not None:
        raise fault


def _check_folder(folder: str) -> BackdropError | None:
    try:
        with inside(folder):
            return None
    except BackdropError as fault:
        return fault


class _Dask(Cluster):
    def __init__(self, client: Any, address: str) -> None:
        self.client = client
        self.address = address

    def workers(self, gpu: bool = False) -> int:
        known = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if gpu:
            return sum(int(worker["resources"].get("GPU", 0)) for worker in known)
        if any(worker["nthreads"] > 1 for worker in known):  # the folder and OpenCV's threads are a process's
            raise BackdropError(
                f"workers of the Dask cluster at {self.address} run several calls at a time in one process: "
                "start them with `--nthreads 1`, and several of them (`--nworkers N`)"
            )
        return len(known)

    def submit(self, batch: Callable[[], Any], gpu: bool) -> Any:
        # by its own name every time: Dask would take the result of an equal call for this one's
        return self.client.submit(_run_batch, batch, pure=False, resources={"GPU": 1} if gpu else None)

    def result(self, future: Any, timeout: float | None = None) -> Any:
        from distributed import KilledWorker

        try:
            return future.result(timeout)
        except KilledWorker:
            raise _worker_killed() from None
        except CancelledError:
            raise BackdropError(
                f"the Dask scheduler at {self.address} went away: start it and run the same command again"
            ) from None
        finally:
            future.release()  # a result that is held is computed again when its worker dies later

    def cancel(self, futures: Iterable[Any]) -> None:
        self.client.cancel(list(futures))


@contextmanager
def _dask(address: str | None, workers: int) -> Iterator[Cluster]:
    distributed = _import_optional("dask", "distributed")
    for name in ("distributed", "distributed.client"):  # a page at every end of a cluster
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if address is None:
        with _dask_here(workers) as cluster, distributed.Client(cluster, set_as_default=False) as client:
            yield _Dask(client, cluster.scheduler_address)
        return
    try:
        client = distributed.Client(address, timeout=CONNECT_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as fault:
        raise _no_answer("dask", address, fault) from None
    with client:
        yield _Dask(client, address)


def _dask_here(workers: int) -> Any:
    """A scheduler in this process and workers in others, a GPU each for the first ones where there are some."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = _visible_gpus()
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}  # seen from this machine alone
    ignore_interrupts = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # Ctrl-C is this process's to act upon
    )
    options = {
        "nthreads": 1,
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
        "preload": ignore_interrupts,
    }
    options |= here
    spec = {}
    for number in range(workers):
        gpu = {"env": {"CUDA_VISIBLE_DEVICES": gpus[number]}, "resources": {"GPU": 1}} if number < len(gpus) else {}
        spec[number] = {"cls": Nanny, "options": {**options, **gpu}}
    scheduler = {"cls": Scheduler, "options": {**here, "dashboard": False, "allowed_failures": RETRIES}}
    return SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL)


def _visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may hold for a process that is to see one GPU of those that this one sees."""
    if not any(Path("/dev", name).exists() for name in ("nvidiactl", "dxg", "kfd")):
        return []  # to ask torch takes seconds
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else map(str, range(torch.cuda.device_count()))
    return list(names)[: torch.cuda.device_count()]


class _Ray(Cluster):
    def __init__(self, address: str) -> None:
        import ray

        self.address = address
        self.remote = ray.remote(_run_batch)
        # Ray calls back in the thread that it talks to its servers in, from which nothing can be submitted
        self.callbacks = ThreadPoolExecutor(1, "ray-callbacks")

    def workers(self, gpu: bool = False) -> int:
        import ray

        return int(ray.cluster_resources().get("GPU" if gpu else "CPU", 0))

    def submit(self, batch: Callable[[], Any], gpu: bool) -> Any:
        return _RayFuture(
            self.remote.options(num_cpus=1, num_gpus=int(gpu), max_retries=RETRIES).remote(batch), self.callbacks
        )

    def result(self, future: Any, timeout: float | None = None) -> Any:
        from ray import exceptions

        try:
            return future.ended.result(timeout)
        except exceptions.RayTaskError as fault:
            raise fault.cause from fault
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError):
            raise _worker_killed() from None
        except exceptions.RayError as fault:
            raise BackdropError(
                f"the Ray cluster at {self.address} lost a call ({str(fault).splitlines()[0]}): "
                "see that its nodes run, and run the same command again"
            ) from None

    def cancel(self, futures: Iterable[Any]) -> None:
        import ray

        for future in futures:
            ray.cancel(future.reference)


class _RayFuture:
    def __init__(self, reference: Any, callbacks: ThreadPoolExecutor) -> None:
        self.reference = reference
        self.ended = reference.future()
        self.callbacks = callbacks

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.ended.add_done_callback(lambda _: self._tell(callback))

    def _tell(self, callback: Callable[[Any], None]) -> None:
        with suppress(RuntimeError):  # the cluster is closed, and nobody waits any more
            self.callbacks.submit(callback, self)


@contextmanager
def _ray(address: str | None, workers: int) -> Iterator[Cluster]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning, of what is to come
    ray = _import_optional("ray", "ray")
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    ray._private.worker.print_to_stdstream = _discard  # ten lines for every worker that dies, on stdout, in any case
    try:
        if address is None:
            # results are a few numbers; without a limit Ray takes a third of the memory for them
            here = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 100 * 2**20}
            ray.init("local", **here, **quiet)
        else:
            ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as fault:
        ray.shutdown()
        token = "; a cluster that asks for a token wants RAY_AUTH_MODE=token in the environment"
        raise _no_answer("ray", address or "null", f"{fault}{token}") from None
    cluster = _Ray(address or "null")
    try:
        yield cluster
    finally:
        cluster.callbacks.shutdown(wait=False, cancel_futures=True)
        ray.shutdown()


def _discard(*_: Any, **__: Any) -> None:
    """What is done with Ray's messages."""


def _run_batch(batch: Callable[[], Any]) -> Any:
    return batch()


def _worker_killed() -> BackdropError:
    return BackdropError(
        f"a call killed its worker process {RETRIES + 1} times, most likely for want of memory: give the "
        "workers more of it, or lower the batch or the size of this stage, and run the same command again"
    )
