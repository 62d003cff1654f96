"""A decoded frame of a video: upright in RGB, or small and gray, each when it is asked for."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Interpolation

from backdrop.errors import BackdropError
from backdrop.io.files import show
from backdrop.io.images import RGB, Gray
from backdrop.video.color import ColorTags, decoded_rgb

Turns = tuple[bool, bool, bool]
"""(transpose, then flip left-right, then flip up-down) that turn a decoded frame upright."""


class Orientation:
    """How the frames of one stream are turned. It looks at a frame's side data only where its rotation changes: after
    such a look the frame stays in memory until Python's collector of cycles comes, some hundred frames later.

    A stream that only in its middle begins to be mirrored up and down keeps its rotation, and is not seen to.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._turned: Turns = (False, False, False)

    def of(self, frame: Any) -> Turns:
        """What turns a frame upright."""
        if frame.rotation != self._rotation:
            self._rotation, self._turned = frame.rotation, turns(frame)
        return self._turned


class Decoded:
    """A decoded frame before its colors are converted, which takes as long as decoding it.

    Attributes:
        size: (width, height) of the upright frame in pixels.
    """

    def __init__(self, path: Path, frame: Any, color: ColorTags, turned: Turns) -> None:
        self._path, self._frame, self._color, self._turned = path, frame, color, turned
        self.size = (frame.height, frame.width) if turned[0] else (frame.width, frame.height)

    def rgb(self) -> RGB:
        """The frame, upright, (H, W, 3)."""
        return _upright_image(self._path, self._frame, self._color, self._turned)

    def gray(self, width: int) -> Gray:
        """Its brightness as stored, not turned upright, reduced to at most this width in pixels."""
        width = min(width, self._frame.width)
        height = max(1, round(self._frame.height * width / self._frame.width))
        small = self._frame.reformat(width=width, height=height, format="gray", interpolation=Interpolation.AREA)
        return small.to_ndarray()  # type: ignore[no-any-return]


def turns(frame: Any) -> Turns:
    """What turns a decoded frame upright.

    Convention: the display matrix, row-major 16.16 integers a b u c d v x y w, sends the stored pixel
    (x, y), x right and y down, to (a x + c y, b x + d y). Only the nearest axis-aligned map is applied.
    """
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _upright_image(path: Path, frame: Any, color: ColorTags, turned: Turns) -> RGB:
    try:
        image = decoded_rgb(frame, color)
    except BackdropError as fault:
        raise BackdropError(f"{show(path)} has {fault}") from fault
    transposed, left_right, up_down = turned
    if transposed:
        image = image.transpose(1, 0, 2)
    if left_right:
        image = image[:, ::-1]
    if up_down:
        image = image[::-1]
    return np.ascontiguousarray(image)
