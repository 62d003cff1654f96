"""What on the command line is a live source, and what its results are called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from backdrop.app.sources import Source
from backdrop.errors import BackdropError
from backdrop.io.files import show
from backdrop.video.live import PIPE, AttachedCamera, Live, Stream

KINDS = ("records", "masks", "overlay", "npz", "video")
"""Folders in which an earlier session of the same source may have left results."""


class LiveInput(NamedTuple):
    """A source that is read once, as it comes.

    given: as on the command line, an address with all it needs. label: what people are told: no password, no key.
    name: what its first session is called.
    """

    given: str
    label: str
    name: str

    def opened(self) -> Live:
        """The source, open.

        Raises:
            BackdropError: it cannot be opened.
        """
        if self.name.startswith("camera"):
            return AttachedCamera(int(self.name.removeprefix("camera")))
        return Stream(PIPE if self.given == "-" else self.given, self.label)

    def source(self, out: Path) -> Source:
        """The source under a name that no session in `out` has yet: <name>, <name>-2, <name>-3, ..."""
        names = chain([self.name], (f"{self.name}-{k}" for k in count(2)))
        return Source(Path(self.label), next(name for name in names if not _is_taken(out, name)), True, self.label)


def _is_taken(out: Path, name: str) -> bool:
    return any(os.path.lexists(out / kind / f"{name}{end}") for kind in KINDS for end in ("", ".jsonl", ".mp4"))


def live_input(inputs: Sequence[str]) -> LiveInput | None:
    """The live source that the inputs name: a camera's number, an address (rtsp://, http://, ...), or - for a pipe.

    A file or a folder of such a name is meant in its place.

    Returns:
        None: they are files.

    Raises:
        BackdropError: there are other inputs beside it, or nothing is piped.
    """
    found = [one for one in (_live(given) for given in inputs) if one is not None]
    if not found:
        return None
    if len(inputs) > 1:
        raise BackdropError(
            f"{found[0].label} is read as it comes, so it is the only input; give {show(_other(inputs, found[0]))} "
            "to a command of its own, with another folder"
        )
    if found[0].given == "-" and os.isatty(0):
        raise BackdropError("- reads a video from a pipe: `ffmpeg -i VIDEO -c copy -f matroska - | backdrop predict -`")
    return found[0]


def _other(inputs: Sequence[str], live: LiveInput) -> str:
    return next((given for given in inputs if given != live.given), inputs[-1])


def _live(given: str) -> LiveInput | None:
    if given == "-":
        return LiveInput(given, "the pipe", "pipe")
    if os.path.lexists(given) and not re.fullmatch(r"/dev/video\d+", given):
        return None
    if camera := re.fullmatch(r"(?:/dev/video)?(\d{1,3})", given):
        number = int(camera[1])
        return LiveInput(given, f"camera {number}", f"camera{number}")
    if not re.match(r"[a-z][a-z0-9+.-]+://", given, re.IGNORECASE):
        return None
    address = urlsplit(given)
    host, path = address.hostname or "", address.path.rstrip("/")
    try:
        port = f":{address.port}" if address.port else ""
    except ValueError:
        raise BackdropError("the address has a port that is no number; correct it") from None
    words = re.sub(r"[^A-Za-z0-9]+", "_", f"{host}_{Path(path).stem}").strip("_")
    return LiveInput(given, show(f"{host}{port}{path}"), f"from_{words}"[:60])
