"""The one exception a person is meant to read."""

from __future__ import annotations


class BackdropError(Exception):
    """A fault in the input, the parameters or the machine, with its remedy.

    The message names the file, key or frame and says what to do. Stages print it as
    one line and exit with status 1; anything else that escapes is a bug of ours.
    """


class StrictError(BackdropError):
    """A skippable fault that `data.strict: true` turned into an error."""
