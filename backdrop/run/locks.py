"""Keeping a second process out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backdrop.errors import BackdropError

try:
    import fcntl
except ImportError:  # Windows has none: nobody is kept out there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file until the block ends. It is made if missing, and stays.

    The system gives the lock back when the process dies, however it dies. A file system without locks, and a system
    without them, keeps nobody out.

    Args:
        busy: what is said where another process holds it.

    Raises:
        BackdropError: another process holds it.
        OSError: the file cannot be made.
    """
    with path.open("ab") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackdropError(busy) from None
            except OSError:
                pass
        yield
