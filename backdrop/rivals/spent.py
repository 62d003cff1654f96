"""What a sequence costs: CPU time over several tries, for a rival that trains goes on from its checkpoint and all of it
counts; and the peak of memory."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from backdrop.io.files import atomic_path

SPENT = "spent.json"
"""In the sequence's folder for checkpoints: CPU seconds that went into the checkpoint that this try started from."""


PEAK = "peak.json"
"""Beside it: the largest memory of the last try, MB."""


class Clock:
    """CPU seconds of this process and of the tries before it.

    Args:
        scratch: the sequence's folder for checkpoints.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.earlier = scratch, 0.0

    def now(self) -> float:
        """All of them."""
        return self.earlier + time.process_time()

    def took_up(self, seconds: float) -> None:
        """A checkpoint was read into which so much had gone: it counts against this process's limit, too."""
        import resource  # not on Windows

        more = seconds - self.earlier
        if more <= 0:
            return
        self.earlier = seconds
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_CPU, (max(1, int(soft - more)), hard))
        with atomic_path(self.scratch / SPENT) as temporary:
            temporary.write_text(json.dumps(seconds), encoding="utf-8")


def spent_seconds(scratch: Path) -> float:
    """What the try that has just ended had taken up; 0 where it started anew."""
    return _stated_number(scratch / SPENT) or 0.0


def note_peak(scratch: Path) -> None:
    """Write the largest memory that this process has had.

    The kernel's `ru_maxrss` of a child begins with that of the process that started it; the table of the process itself
    does not. Where there is no such table, it must do.
    """
    import resource

    table = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", table.read_text(encoding="ascii")) if table.is_file() else None
    kilobytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with atomic_path(scratch / PEAK) as temporary:
        temporary.write_text(json.dumps(kilobytes / 1024), encoding="utf-8")


def peak_mb(scratch: Path) -> float | None:
    """The largest memory of the last try, MB; None where it was ended before it could say."""
    return _stated_number(scratch / PEAK)


def forget_try(scratch: Path) -> None:
    """Before a new try."""
    for name in (SPENT, PEAK):
        (scratch / name).unlink(missing_ok=True)


def _stated_number(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
