"""Writing the frames of a video anew, with something drawn in: as the video was in all else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from backdrop.video.decode import VideoInfo
from backdrop.video.encode import Presentation, encode_video
from backdrop.video.sound import Sound

_FINEST = Fraction(1, 1_000_000)


def redraw_video(
    path: Path, frames: Iterable[np.ndarray], times: Sequence[float], info: VideoInfo, whole: bool = True
) -> str:
    """Write an MP4 with the times, the colors, the shape of pixels and the sound of another video.

    Args:
        path: the MP4.
        frames: (H, W, 3) uint8 RGB, all of one size, consumed one at a time.
        times: seconds of each frame since the first of the other video, and when the last one ends.
        info: of the other video.
        whole: keep sound that goes on after the last frame.

    Returns:
        Why sound is missing, or "".

    Raises:
        BackdropError: no frames, or frames of mixed sizes.
    """
    end = times[-1]
    with Sound(info.path, info.start_s, None if whole else end) as sound:
        tick = max(info.tick, _FINEST)
        shown = Presentation(times, tick, info.aspect, info.color.complete(info.height), sound)
        encode_video(path, frames, (len(times) - 1) / end if end > 0 else info.fps, quality=80, shown=shown)
        return sound.lost
