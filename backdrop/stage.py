"""What every stage's main shares: exit codes, one line for a person instead of a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

from backdrop.errors import UNWRITABLE, BackdropError


def explain(fault: BaseException) -> str | None:
    """What to do about a fault of the machine, in one line; None: it is a fault of the program."""
    kind = type(fault).__name__
    if isinstance(fault, OSError) and fault.errno in UNWRITABLE:
        where = f"{fault.filename!r}: " if fault.filename else ""
        if fault.filename and os.path.isfile(fault.filename) and not os.access(fault.filename, os.R_OK):
            return f"cannot read: {where}{fault.strerror}; give yourself the right to read it, and run it again"
        return f"cannot write: {where}{fault.strerror}; {UNWRITABLE[fault.errno]}, and run the same command again"
    if isinstance(fault, MemoryError) or kind == "OutOfMemoryError":
        return f"out of memory ({str(fault).splitlines()[0] if str(fault) else kind}); {_LESS}"
    if kind == "TerminatedWorkerError":
        return f"a worker process was killed, most likely for want of memory; {_LESS}"
    if kind.startswith("Dist") or any(words in str(fault) for words in _PEER):
        return "another process of the training ended (it may say why above); run the same command again to go on"
    if kind in ("RuntimeError", "AcceleratorError") and "CUDA error" in str(fault):
        first = str(fault).splitlines()[0]
        return f"the GPU gave out ({first}); run the same command again: training goes on from its last checkpoint"
    if isinstance(fault, OSError) and fault.strerror:
        where = f"{fault.filename!r}: " if fault.filename else ""
        return f"{where}{fault.strerror}; see to that, and run the same command again"
    return None


_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # gloo's words in a RuntimeError

_LESS = "lower the batch or the size of this stage, or compute.workers, and run the same command again"


def run(main: Callable[[], None]) -> None:
    """Call a stage's main, and turn faults into one message on stderr.

    A BackdropError, and what `explain` knows, gives exit status 1. Ctrl-C gives exit status 130.
    """
    try:
        main()
    except BackdropError as error:
        warnings.simplefilter("ignore")  # joblib's, of the tasks that are left undone: they would bury the message
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
    except (OSError, MemoryError, RuntimeError) as fault:
        known = explain(fault)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        raise SystemExit(1) from None
