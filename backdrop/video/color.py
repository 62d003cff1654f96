"""Colors of video: decoding by what the source says of itself, and encoding so that the file says what it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from backdrop.errors import BackdropError
from backdrop.io.files import one_line
from backdrop.io.images import RGB

_UNKNOWN = 2
"""The code point of all three kinds in ITU-T H.273."""

_USUAL = {1: (1, 1), 4: (4, 4), 5: (5, 6), 6: (6, 6), 7: (7, 7), 9: (9, 14)}
"""Matrices that libswscale converts -> the primaries and the transfer that go with them."""

_REFUSED = (8, 11, 13, 14)
"""Matrices that are known, and that libswscale does not convert: YCgCo, YDzDx, constant luminance, ICtCp."""

_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""For more than 8 bits, where libswscale's quick way is off by 3."""

_SILENT_CODECS = ("vp8", "mjpeg")
"""Their decoders call all video BT.601. The container may know better."""


class ColorTags(NamedTuple):
    """What the numbers of a video mean, by the code points of ITU-T H.273. 2: it does not say.

    matrix: from RGB to luma and chroma. primaries: of red, green and blue. transfer: from light to numbers.
    limited: black is 16 and white 235; else 0 and 255. None: it does not say.
    """

    matrix: int = _UNKNOWN
    primaries: int = _UNKNOWN
    transfer: int = _UNKNOWN
    limited: bool | None = None

    @classmethod
    def of(cls, tagged: Any) -> ColorTags:
        """What a decoded frame says, or a codec context: before the first frame, what container and codec say."""
        limited = {1: True, 2: False}.get(tagged.color_range)
        return cls(tagged.colorspace, tagged.color_primaries, tagged.color_trc, limited)

    def complete(self, height: int) -> ColorTags:
        """Without unknowns, limited, and with a matrix that can be converted. Players, too, guess by the height."""
        matrix = self.matrix if self.matrix in _USUAL else 1 if height >= 720 else 6
        named = (self.primaries, self.transfer)
        primaries, transfer = (
            usual if one in (0, _UNKNOWN, 3) else one for one, usual in zip(named, _USUAL[matrix], strict=True)
        )
        return ColorTags(matrix, primaries, transfer, True)


def frame_color(frame: Any, codec: str, declared: ColorTags) -> ColorTags:
    """What the numbers of a decoded frame mean.

    Args:
        codec: libav's name of it.
        declared: by container and codec before the first frame was decoded.
    """
    own = ColorTags.of(frame)
    matrix, limited = own.matrix, own.limited
    if codec in _SILENT_CODECS:
        matrix = declared.matrix if declared.matrix in _USUAL else matrix
        if declared.limited is not None and not frame.format.name.startswith("yuvj"):
            limited = declared.limited
    primaries, transfer = (
        theirs if mine == _UNKNOWN else mine
        for mine, theirs in ((own.primaries, declared.primaries), (own.transfer, declared.transfer))
    )
    if matrix == 12:  # that of the primaries
        matrix = primaries
    return ColorTags(matrix, primaries, transfer, limited)


def decoded_rgb(frame: Any, color: ColorTags) -> RGB:
    """A decoded frame as (H, W, 3) RGB, without a turn. A matrix that nobody names is BT.601's.

    Raises:
        BackdropError: a matrix or a pixel format that cannot be converted; the message does not name the file.
    """
    matrix = 9 if color.matrix == 10 else color.matrix  # BT.2020: constant luminance is near to the other
    frame.colorspace = matrix if matrix in (0, *_USUAL, *_REFUSED) else _UNKNOWN
    if color.limited is not None:
        frame.color_range = ColorRange.MPEG if color.limited else ColorRange.JPEG
    deep = any(component.bits > 8 for component in frame.format.components)
    try:
        return frame.to_ndarray(format="rgb24", interpolation=_EXACT if deep else None)
    except (av.error.FFmpegError, ValueError) as fault:
        raise BackdropError(
            f"colors that cannot be converted (pixel format {frame.format.name}, matrix {color.matrix}: "
            f"{one_line(fault)}); convert it to H.264 with the colors of BT.709"
        ) from fault


def encoded_yuv(image: RGB, pixel_format: str, color: ColorTags) -> Any:
    """An RGB image as a frame in limited range for an encoder.

    Args:
        color: from `ColorTags.complete`.
    """
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
        format=pixel_format,
        dst_colorspace=color.matrix,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND,
    )
    frame.colorspace, frame.color_range = color.matrix, ColorRange.MPEG
    frame.color_primaries, frame.color_trc = color.primaries, color.transfer
    return frame
