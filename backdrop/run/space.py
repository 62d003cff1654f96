"""Room on the disk, taken before it is needed."""

from __future__ import annotations

import os
from typing import IO

BLOCK = 1 << 20
"""Bytes that are written at a time where the system cannot take the room by itself."""


def take_room(file: IO[bytes], size: int) -> None:
    """Give a file `size` bytes of the disk at once, and leave what it holds as it is.

    A map into memory of a file that the disk has no room for is no error later on, but a killed process.

    Args:
        file: open for reading and writing.
        size: bytes; at least what it has now.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    if os.fstat(file.fileno()).st_size < size:  # macOS and Windows: a block counts once it is written
        file.truncate(size)
    for start in range(0, size, BLOCK):
        file.seek(start)
        block = file.read(BLOCK)
        file.seek(start)
        file.write(block)
    file.flush()
