"""Work spread over processes: order, faults, and a caller that leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from backdrop.errors import BackdropError, WriteError
from backdrop.processes import collect, each
from tests.tiny import ROOT

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
    assert collect(slow_first, [], workers, "nothing", "call") == []


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
        collect(touch, [(tmp_path, number, (3, 4)) for number in range(6)], 2, "touching", "file")


def test_processes_share_the_cores() -> None:
    before = cv2.getNumThreads()
    assert collect(threads, [(), (), ()], 2, "threads", "call") == [1, 1, 1]
    assert collect(threads, [()], 2, "threads", "call") == [2]
    assert cv2.getNumThreads() == before


def test_nothing_is_said_at_the_end_of_a_program_that_had_a_fault(tmp_path: Path) -> None:
    """joblib warned of tasks left undone and of semaphores, after the message and in place of it."""
    program = (
        "from pathlib import Path; from backdrop.errors import BackdropError; from backdrop.processes import collect\n"
        "from tests.test_processes import touch\n"
        f"try: collect(touch, [(Path({str(tmp_path)!r}), n, (2,)) for n in range(9)], 2, 'touching', 'file')\n"
        "except BackdropError as fault: raise SystemExit(f'error: {fault}')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line] == ["error: number 2"]
