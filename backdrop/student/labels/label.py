"""One thing that a file of labels says about a frame, and what goes wrong with some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

Kind = Literal["mask", "box", "point", "background", "nothing", "present"]

NOTHING_NAMES = ("nothing", "nothing here")
"""Classes, tags and choices that say: the subject is not in this frame. In small letters."""

PRESENT_NAMES = ("present", "something here")
"""Tags and choices that say: the subject is somewhere in this frame. In small letters."""

BACKGROUND_NAMES = ("background",)
"""Classes whose points lie beside the subject."""

NAMED_FRAMES = 3
"""Names that a line about several frames gives."""


class Label(NamedTuple):
    """What a file says about one image.

    file: the file. image: how it calls the image. number: of the frame in a video, where it counts frames.
    size: (width, height) of the image in pixels, as the file states it; None: it does not.
    value: box: left, top, right, bottom in pixels. point, background: x, y. mask: a call that gives (H, W) uint8 of 0,
        128 (nothing known) and 255; it may raise ValueError or BackdropError. nothing, present: None.
    """

    file: str
    image: str
    kind: Kind
    value: tuple[float, ...] | Callable[[], np.ndarray] | None = None
    size: tuple[int, int] | None = None
    number: int | None = None


class Complaints:
    """What cannot be used, gathered, so that each file and reason is one line."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[str]] = {}

    def add(self, file: str, why: str, what: str = "") -> None:
        """Args: file, and why something of it is left out; what: which frame, or which annotation."""
        self._found.setdefault((file, why), []).append(what)

    def lines(self) -> list[str]:
        """A line for each file and reason, with how many and the first few."""
        told = []
        for (file, why), names in self._found.items():
            known = list(dict.fromkeys(name for name in names if name))
            more = ", ..." if len(known) > NAMED_FRAMES else ""
            which = f": {len(known)} ({', '.join(known[:NAMED_FRAMES])}{more})" if known else ""
            told.append(f"{file}: {why}{which}; left out")
        return told


def tag_kind(name: Any) -> Kind | None:
    """What a tag or a choice for a whole image says; None: nothing that can be used."""
    plain = str(name).strip().lower()
    if plain in PRESENT_NAMES:
        return "present"
    return "nothing" if plain in NOTHING_NAMES else None


def class_kind(name: Any, kind: Kind) -> Kind | None:
    """What a shape of the class `name` says. None: nothing that can be used, as a box of background."""
    plain = str(name).strip().lower()
    if plain in NOTHING_NAMES:
        return "nothing"
    if plain in BACKGROUND_NAMES:
        return "background" if kind in ("point", "background") else None
    return kind


def box_sides(x: Any, y: Any, width: Any, height: Any) -> tuple[float, float, float, float]:
    """left, top, right, bottom of a box.

    Raises:
        ValueError, TypeError: no numbers, or no area.
    """
    left, top, width, height = (float(value) for value in (x, y, width, height))
    if not np.isfinite([left, top, width, height]).all():
        raise ValueError("no finite numbers")
    return left, top, left + width, top + height
