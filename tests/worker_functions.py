"""What the tests of the clusters have workers do; apart, so that a worker need not import PyTorch for it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from backdrop.errors import BackdropError


def noted(folder: Path, number: int, deadly: int, seconds: float = 0.3) -> int:
    """Notes its start and takes its time; the call `deadly` kills its process the first time."""
    with (folder / "starts").open("a") as starts:
        starts.write(f"{number}\n")
    time.sleep(seconds)
    if number == deadly and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def starts(folder: Path) -> list[int]:
    """The calls of `noted` that were begun, sorted; one that was begun twice stands there twice."""
    return sorted(int(word) for word in (folder / "starts").read_text().split())


def faulty(number: int, bad: int) -> int:
    if number == bad:
        raise BackdropError(f"number {number}")
    return number


def deadly() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken() -> None:
    raise ZeroDivisionError("a fault of the program")


def process() -> int:
    time.sleep(0.2)
    return os.getpid()


def read(path: Path) -> str:
    return path.read_text()
