"""The one exception a person is meant to read."""

from __future__ import annotations

import errno


class BackdropError(Exception):
    """A fault in the input, the parameters or the machine, with its remedy.

    The message names the file, key or frame and says what to do. Stages print it as
    one line and exit with status 1; anything else that escapes is a bug of ours.
    """


class StrictError(BackdropError):
    """A skippable fault that `data.strict: true` turned into an error."""


class WriteError(BackdropError):
    """A disk that takes nothing: no fault of the input, so nothing is skipped for it."""


UNWRITABLE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space of your quota",
    errno.EFBIG: "lift the limit on the size of a file (ulimit -f)",
    errno.EROFS: "make the disk writable",
    errno.EACCES: "give yourself the right to write there",
    errno.EPERM: "give yourself the right to write there",
}
"""What a disk says that takes nothing -> what a person can do."""
