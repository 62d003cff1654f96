"""Work spread over processes: order, faults, and a caller that leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from backdrop.errors import BackdropError, WriteError
from backdrop.run import processes
from backdrop.run.processes import collect, device_there, each, threads_each
from tests import worker_functions as work
from tests.small_pipeline import ROOT

WORKERS = pytest.mark.parametrize("workers", [1, 2])


def slow_first(number: int) -> int:
    time.sleep(0.3 * (number == 0))
    return number**2


def touch(folder: Path, number: int, bad: tuple[int, ...]) -> int:
    """Begins a file, waits, and ends it; bad numbers have a fault at once."""
    if number in bad:
        raise WriteError(f"number {number}")
    path = folder / f"{number}.part"
    path.touch()
    time.sleep(0.2)
    path.rename(folder / f"{number}.whole")
    return number


def threads() -> int:
    return cv2.getNumThreads()


@WORKERS
def test_results_come_in_the_order_of_the_calls(workers: int) -> None:
    assert list(each(slow_first, [(n,) for n in range(20)], workers)) == [n**2 for n in range(20)]
    assert collect(slow_first, [], workers, title="nothing", unit="call") == []


@WORKERS
def test_a_fault_lets_what_is_under_way_finish_and_begins_nothing_more(workers: int, tmp_path: Path) -> None:
    calls = [(tmp_path, number, (1, 30)) for number in range(40)]
    found = each(touch, calls, workers)
    assert next(found) == 0
    with pytest.raises(WriteError, match="number 1"):
        next(found)
    assert not list(tmp_path.glob("*.part"))
    assert len(list(tmp_path.glob("*.whole"))) < 20


@WORKERS
def test_a_caller_that_leaves_leaves_nothing_half_done(workers: int, tmp_path: Path) -> None:
    found = each(touch, [(tmp_path, number, ()) for number in range(40)], workers)
    assert next(found) == 0
    found.close()
    assert not list(tmp_path.glob("*.part"))
    assert 0 < len(list(tmp_path.glob("*.whole"))) < 20


def test_the_first_fault_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="number 3"):
        collect(touch, [(tmp_path, number, (3, 4)) for number in range(6)], 2, title="touching", unit="file")


def test_processes_share_the_cores() -> None:
    before = cv2.getNumThreads()
    assert collect(threads, [(), (), ()], 2, title="threads", unit="call") == [1, 1, 1]
    assert collect(threads, [()], 2, title="threads", unit="call") == [2]
    assert cv2.getNumThreads() == before


def test_a_killed_process_costs_what_was_not_yet_handed_out(tmp_path: Path) -> None:
    found = each(work.noted, [(tmp_path, number, 6) for number in range(12)], 2)
    assert [next(found) for _ in range(4)] == [0, 1, 2, 3]
    assert list(found) == list(range(4, 12))
    begun = work.starts(tmp_path)
    assert [begun.count(number) for number in (0, 1, 2, 3, 6)] == [1, 1, 1, 1, 2]
    assert max(begun.count(number) for number in range(12)) == 2


def test_a_second_death_is_told() -> None:
    with pytest.raises(TerminatedWorkerError):
        list(each(work.deadly, [(), ()], 2))
    assert list(each(work.faulty, [(1, 0), (2, 0)], 2)) == [1, 2]


def test_the_callers_fault_counts_where_a_process_dies_as_well(tmp_path: Path) -> None:
    found = each(work.noted, [(tmp_path, number, 3) for number in range(12)], 2)

    def use() -> None:
        with closing(found):
            next(found)
            raise WriteError("disk full")

    with pytest.raises(WriteError, match="disk full"):
        use()
    assert (tmp_path / "killed").exists()
    assert len(work.starts(tmp_path)) < 12


def test_without_a_cluster_calls_for_the_gpu_share_this_process() -> None:
    assert set(each(work.process, [(), (), ()], 2, gpu=True)) == {os.getpid()}
    assert list(each(threads, [(), ()], 2, gpu=True)) == [2, 2], "one after another, with all cores"


def test_a_call_on_a_cluster_sees_the_gpu_that_it_was_given_and_has_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_there("cuda:1", True) == "cuda:1"
    assert threads_each(1, 64) == 64
    monkeypatch.setattr(processes, "_cluster", SimpleNamespace(get=lambda: "a cluster"))
    assert device_there("cuda:1", True) == "cuda"
    assert device_there("auto", False) == "cpu"
    assert threads_each(1, 64) == 1


def test_zero_workers_are_the_cores_that_this_process_may_use() -> None:
    program = (
        "from backdrop.params import read; from backdrop.run.processes import pool\n"
        "compute = read('params.yaml').compute.model_copy(update={'workers': 0})\n"
        "with pool(compute) as workers: print(workers)"
    )
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split() == ["1"]


def test_nothing_is_said_at_the_end_of_a_program_that_had_a_fault(tmp_path: Path) -> None:
    """joblib warned of tasks left undone and of semaphores, after the message and in place of it."""
    program = (
        "from pathlib import Path; from backdrop.errors import BackdropError\n"
        "from backdrop.run.processes import collect\n"
        "from tests.run.test_processes import touch\n"
        f"arguments = [(Path({str(tmp_path)!r}), n, (2,)) for n in range(9)]\n"
        "try: collect(touch, arguments, 2, title='touching', unit='file')\n"
        "except BackdropError as fault: raise SystemExit(f'error: {fault}')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line] == ["error: number 2"]
