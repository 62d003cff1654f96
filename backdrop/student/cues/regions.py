"""Cues fast_motion and nlc: two classical methods that look at the superpixels of many frames at once.

They err elsewhere than the other cues: what is cut out of the whole stretch, and what looks like that which moved in
other frames, stays the subject while it rests or leaves the image. The E-step computes them once for each sequence, in
round 1, and keeps them in files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from backdrop.io.masks import Soft
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.motion.regions.fast_motion import fast_motion_masks
from backdrop.motion.regions.nlc import nlc_masks
from backdrop.motion.regions.stretch import Stretch
from backdrop.student.cues.cue import Cue, CueFrame
from backdrop.student.targets import IGNORED

REGION_CUES: dict[str, Callable[[Stretch], Iterator[Soft]]] = {"fast_motion": fast_motion_masks, "nlc": nlc_masks}
"""Name of a cue -> the soft masks of a stretch."""

STRETCH_FRAMES = 120
"""Frames that are looked at together, at most: cost and memory grow faster than their number."""

MOVING_FRAMES = 3
"""Frames of a stretch in which something moves, at least: both methods stretch what they find to the whole scale, and
would make a subject of noise."""


def stretch_spans(count: int) -> list[range]:
    """The frames of a sequence in stretches of nearly equal length."""
    ends = np.linspace(0, count, -(-count // STRETCH_FRAMES) + 1).round().astype(int)
    return [range(int(a), int(b)) for a, b in zip(ends, ends[1:], strict=False)]


def region_masks(
    sequence: StabilizedSequence, names: Sequence[str]
) -> Iterator[tuple[str, int, UInt8[np.ndarray, "H W"]]]:
    """The masks of all frames, as they are stored: cue, frame, plane. The cues share the flow.

    Nothing is known of a stretch in which hardly a frame moves.
    """
    for frames in stretch_spans(len(sequence)):
        stretch = Stretch(sequence, frames)
        moving = sum(stretch.moves(t) for t in range(len(stretch))) >= MOVING_FRAMES
        for name in names:
            if not moving:
                for t in frames:
                    yield name, t, np.full((sequence.size[1], sequence.size[0]), IGNORED, np.uint8)
                continue
            for t, soft in zip(frames, REGION_CUES[name](stretch), strict=True):
                yield name, t, np.rint(soft * (IGNORED - 1)).astype(np.uint8)


def fast_motion_cue(frame: CueFrame) -> Cue | None:
    """Fast motion segmentation (Papazoglou and Ferrari, ICCV 2013); none where it was not computed."""
    return _stored(frame, "fast_motion")


def nlc_cue(frame: CueFrame) -> Cue | None:
    """Non-local consensus voting (Faktor and Irani, BMVC 2014); none where it was not computed."""
    return _stored(frame, "nlc")


def _stored(frame: CueFrame, name: str) -> Cue | None:
    if name not in frame.regions:
        return None
    plane = frame.regions[name][frame.t]
    return Cue((plane % IGNORED).astype(np.float32) / (IGNORED - 1), plane != IGNORED)
