"""A real Dask cluster and a real Ray, on this machine: what one process gives, they give, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backdrop.errors import BackdropError
from backdrop.run import cluster
from backdrop.run.cluster import inside
from backdrop.run.compute import ComputeParams
from backdrop.run.processes import collect, each, pool
from tests import worker_functions as work
from tests.project_copy import alive
from tests.small_pipeline import ROOT, contents, environment, run_stage, small_values, write_model, write_params

BACKENDS = pytest.mark.parametrize("backend", ["dask", "ray"], indirect=True)
STAGES = ("render", "frames", "stabilize", "flow", "segment", "refine", "score")


def compute(backend: str, address: str | None = None, workers: int = 2) -> ComputeParams:
    changes = {"workers": workers, "backend": backend, "address": address}
    return ComputeParams(**small_values()["compute"] | changes)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    package = {"dask": "distributed", "ray": "ray"}.get(request.param, "joblib")
    pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[cluster]'")
    return request.param


def ended(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.fixture(scope="module")
def dask_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers, the second with a GPU, all of them commands as in the docs."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install -e '.[cluster]'")
    folder = tmp_path_factory.mktemp("dask")
    options: dict[str, Any] = {"cwd": folder, "env": environment(PYTHONPATH=str(ROOT)), "stderr": subprocess.DEVNULL}
    scheduler = ["dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", "s"]
    started = [subprocess.Popen(scheduler, **options)]
    try:
        deadline = time.monotonic() + 60
        while not (folder / "s").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        address = json.loads((folder / "s").read_text())["address"]
        worker = ["dask", "worker", address, "--nthreads", "1", "--no-dashboard"]
        started += [subprocess.Popen([*worker, *more], **options) for more in ([], ["--resources", "GPU=1"])]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for process in reversed(started):
            ended(process)


@contextmanager
def answering(chosen: ComputeParams) -> Iterator[int]:
    """`pool` of a cluster that is being started."""
    with ExitStack() as stack:
        deadline = time.monotonic() + 60
        while True:
            try:
                workers = stack.enter_context(pool(chosen))
                break
            except BackdropError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield workers


# ----------------------------------------------------------------------------------------------- real clusters


@pytest.mark.parametrize("backend", ["dask", pytest.param("ray", marks=pytest.mark.slow)], indirect=True)
def test_a_cluster_gives_what_processes_give(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note").write_text("found")
    with pool(compute(backend)) as workers:
        assert workers == 2
        assert collect(work.read, [(Path("note"),)], workers, title="relative paths", unit="call") == ["found"]
        found = collect(work.noted, [(Path("."), n, 4) for n in range(9)], workers, title="a death", unit="call")
        assert found == list(range(9))
        assert work.starts(tmp_path) == sorted([*range(9), 4]), "only the call that died was begun again"
        assert os.getpid() not in collect(work.process, [()] * 4, 1, title="elsewhere", unit="call")
        with pytest.raises(BackdropError, match="number 3"):
            collect(work.faulty, [(n, 3) for n in range(9)], workers, title="a fault", unit="call")
        with pytest.raises(ZeroDivisionError, match="of the program"):
            list(each(work.broken, [()]))
        with pytest.raises(BackdropError, match=r"no worker .* declares a GPU.*compute\.device"):
            list(each(work.process, [()], gpu=True))
    assert collect(work.process, [()], workers, title="here again", unit="call") == [os.getpid()]


@pytest.mark.slow
@BACKENDS
def test_a_call_that_kills_every_worker_is_told(backend: str) -> None:
    with pool(compute(backend)), pytest.raises(BackdropError, match=r"killed its worker process 4 times"):
        list(each(work.deadly, [()]))


def run_stages(folder: Path, monkeypatch: pytest.MonkeyPatch, chosen: ComputeParams) -> dict[str, bytes | None]:
    """A small project from its footage to its scores, with a model of random weights; what the stages wrote."""
    folder.mkdir()
    write_params(folder, {f"compute.{key}": getattr(chosen, key) for key in ("workers", "backend", "address")})
    write_model(folder / "models" / "segmenter")
    for name in STAGES:
        run_stage(name, folder, monkeypatch)
    found = contents(folder / "data") | {f"metrics/{k}": v for k, v in contents(folder / "metrics").items()}
    assert found.pop("metrics/provenance.json")
    assert len([name for name in found if name.startswith("davis/Annotations")]) > 20
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, bytes | None]:
    """What one process gives, of a thread like a worker's: PyTorch's sums depend on their number in the last digit."""
    with pytest.MonkeyPatch.context() as patch:
        return run_stages(tmp_path_factory.mktemp("alone") / "project", patch, compute("loky", workers=1))


@pytest.mark.slow
@BACKENDS
def test_stages_on_a_cluster_give_the_same_bytes(
    backend: str, alone: dict[str, bytes | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_stages(tmp_path / "project", monkeypatch, compute(backend))
    assert found.keys() == alone.keys()
    assert [name for name in alone if found[name] != alone[name]] == []


@pytest.mark.slow
def test_stages_on_a_cluster_started_by_hand_give_the_same_bytes(
    dask_by_hand: str, alone: dict[str, bytes | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_stages(tmp_path / "project", monkeypatch, compute("dask", dask_by_hand)) == alone


@pytest.mark.slow
def test_calls_that_need_a_gpu_go_to_the_dask_worker_that_has_one(dask_by_hand: str) -> None:
    with pool(compute("dask", dask_by_hand)) as workers:
        assert workers == 2
        assert len(set(each(work.process, [()] * 8))) == 2
        assert len(set(each(work.process, [()] * 8, gpu=True))) == 1


@pytest.mark.slow
def test_workers_started_here_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed: pip install -e '.[cluster]'")
    monkeypatch.setattr(cluster, "_visible_gpus", lambda: ["7"])
    with pool(compute("dask")):
        assert len(set(each(work.process, [()] * 8))) == 2
        assert len(set(each(work.process, [()] * 8, gpu=True))) == 1
        assert set(each(os.getenv, [("CUDA_VISIBLE_DEVICES",)] * 4, gpu=True)) == {"7"}


@pytest.mark.slow
def test_calls_that_need_a_gpu_share_those_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray believes what it is told of GPUs, so one can be told of."""
    pytest.importorskip("ray", reason="ray is not installed: pip install -e '.[cluster]'")
    with pool(compute("ray")):
        pass  # where there was none, Ray has made the token now that the head is to ask for
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    head = ["ray", "start", "--head", "--port", str(port), "--num-cpus", "2", "--num-gpus", "1", "--block"]
    options: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = subprocess.Popen(
        [*head, "--include-dashboard", "false"], env=environment(PYTHONPATH=str(ROOT)), **options
    )
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    try:
        with answering(compute("ray", f"127.0.0.1:{port}")) as workers:
            assert workers == 2
            begun = time.monotonic()
            found = each(work.noted, [(tmp_path, number, -1, 1.0) for number in range(4)], gpu=True)
            assert list(found) == [0, 1, 2, 3]
            assert time.monotonic() - begun > 4, "one at a time: there is one GPU"
    finally:
        ended(started)


@pytest.mark.slow
@BACKENDS
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_no_process_outlives_the_program(backend: str, sign: signal.Signals, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from backdrop.run.compute import ComputeParams\n"
        "from backdrop.stage import run; from backdrop.run.processes import collect, pool\n"
        "from tests import worker_functions as work\n"
        "def main():\n"
        f"  with pool(ComputeParams(**{compute(backend).model_dump()})) as workers:\n"
        "    print('up', flush=True)\n"
        "    collect(work.noted, [(Path('.'), n, -1, 2.0) for n in range(20)], workers, title='x', unit='call')\n"
        "if __name__ == '__main__': run(main)\n"
    )
    (tmp_path / "program.py").write_text(program)
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = environment(PYTHONPATH=str(ROOT))
    started = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=env, start_new_session=True, **options)
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    while not (tmp_path / "starts").exists():
        time.sleep(0.1)
    if sign == signal.SIGINT:  # as a terminal gives it: to all
        os.killpg(started.pid, sign)
        assert started.communicate(timeout=60) == ("", "stopped; run the same command again to go on\n")
        assert started.returncode == 130
    else:
        started.send_signal(sign)
    deadline = time.monotonic() + 180  # two helpers of Ray's look for their parent once a minute
    while alive(started.pid):
        assert time.monotonic() < deadline
        time.sleep(0.2)


# ---------------------------------------------------------------------------------------------------- bad input


@BACKENDS
def test_a_missing_package_is_named(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"dask": "distributed", "ray": "ray"}[backend], None)
    with pytest.raises(BackdropError, match=rf"compute\.backend={backend} needs .*pip install"), pool(compute(backend)):
        pass


def test_loky_has_no_address() -> None:
    with pytest.raises(ValueError, match=r"compute\.backend=loky has no compute\.address"):
        compute("loky", "tcp://127.0.0.1:8786")


ADDRESSES = [
    ("dask", "somewhere", r"'somewhere' is no address .*tcp://host:8786"),
    ("ray", "ray://127.0.0.1:10001", r"is no address .*host:6379"),
    ("dask", "tcp://127.0.0.1:1", r"no Dask cluster answers at compute\.address=tcp://127\.0\.0\.1:1 .*dask scheduler"),
    ("ray", "127.0.0.1:1", r"no Ray cluster answers at compute\.address=127\.0\.0\.1:1 .*ray start --head"),
    ("dask", "127.0.0.1:99999", "no Dask cluster answers"),
]


@pytest.mark.parametrize(("backend", "address", "said"), ADDRESSES, indirect=["backend"])
def test_an_address_that_nobody_listens_at_is_one_error(backend: str, address: str, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(BackdropError, match=said), pool(compute(backend, address)):
        pass
    assert time.monotonic() - begun < 5


@BACKENDS
@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-something\r\n"], ids=["silent", "another"])
def test_something_else_that_listens_there_is_one_error(
    backend: str, greeting: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        if greeting:
            threading.Thread(target=lambda: server.accept()[0].sendall(greeting), daemon=True).start()
        chosen = compute(backend, f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(BackdropError, match="cluster answers at"), pool(chosen):
            pass


@pytest.mark.slow
def test_a_scheduler_without_workers_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install -e '.[cluster]'")
    monkeypatch.setattr(cluster, "CONNECT_PATIENCE", 2.0)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as local,
        pytest.raises(BackdropError, match=r"has no worker: start some \(`dask worker tcp://"),
        pool(compute("dask", local.scheduler_address)),
    ):
        pass


@pytest.mark.slow
def test_workers_of_several_threads_are_refused() -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install -e '.[cluster]'")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as local,
        pytest.raises(BackdropError, match="--nthreads 1"),
        pool(compute("dask", local.scheduler_address)),
    ):
        pass


def test_a_folder_that_a_node_does_not_have_is_named(tmp_path: Path) -> None:
    before = Path.cwd()
    with (
        pytest.raises(BackdropError, match=r"cannot enter .*elsewhere.* same path"),
        inside(str(tmp_path / "elsewhere")),
    ):
        pass
    with inside(str(tmp_path)):
        assert Path.cwd() == tmp_path
    assert Path.cwd() == before
