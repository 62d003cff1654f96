"""What the commands share: how they end, and where results can go."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from backdrop.errors import UNWRITABLE, BackdropError
from backdrop.io.files import show


class Commands(TyperGroup):
    """The commands. At Ctrl-C Typer ends without a word, and a path that the system refuses would be a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("stopped; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(130) from None
        except OSError as fault:
            if fault.filename is None or fault.errno in UNWRITABLE:  # `main` has words for the latter
                raise
            name = os.fsdecode(fault.filename)
            raise BackdropError(
                f"{show(name)[:200]}: {fault.strerror}; name another place, or mend this one"
            ) from fault


def check_out(out: Path, folder: bool = True, inputs: Sequence[str] = ()) -> None:
    """Whether -o can be a folder for results, or (`folder` false) a file; before anything is computed.

    Args:
        inputs: what is read; results among it would be inputs of the next run.

    Raises:
        BackdropError: it cannot.
    """
    if folder and os.path.exists(out) and not out.is_dir():
        raise BackdropError(f"-o {out} is a file; name a folder")
    if not folder and out.is_dir():
        raise BackdropError(f"-o {out} is a folder; name a file")
    if any(os.path.isdir(given) and os.path.realpath(out) == os.path.realpath(given) for given in inputs):
        raise BackdropError(f"-o {out} is the input folder, and the next run would segment the masks; name another one")
    above = next((parent for parent in out.parents if os.path.exists(parent)), None)
    if above is not None and not above.is_dir():
        raise BackdropError(f"-o {out} would lie in {above}, which is a file; name another place")
