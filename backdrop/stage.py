"""What every stage's main shares: exit codes, worker count, one line for a person instead of a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

from backdrop.errors import BackdropError


def worker_count(workers: int) -> int:
    """`compute.workers`, with 0 meaning all the cores this process may use."""
    return workers or len(os.sched_getaffinity(0))


def run(main: Callable[[], None]) -> None:
    """Call a stage's main; a BackdropError becomes one message on stderr and exit status 1, Ctrl-C status 130."""
    try:
        main()
    except BackdropError as error:
        warnings.simplefilter("ignore")  # joblib's, of the tasks that are left undone: they would bury the message
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
