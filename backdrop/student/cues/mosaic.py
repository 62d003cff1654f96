"""Cue mosaic: the baseline `motion.mog2.Mog2`, a longer window in the order of time, which never sees a mask."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import cv2
import numpy as np

from backdrop.motion.mog2 import Mog2
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.student.cues.cue import Cue, CueFrame

_BASELINES: WeakKeyDictionary[StabilizedSequence, Mog2] = WeakKeyDictionary()
"""Of the sequences in use: a baseline holds the reduced frames of its window from one frame to the next."""


def mosaic_cue(frame: CueFrame) -> dict[str, Cue]:
    """The baseline's mask at the working size, known everywhere; none where no other cue found a neighbor."""
    if not frame.found:
        return {}
    sequence = frame.sequence
    if sequence not in _BASELINES:
        _BASELINES[sequence] = Mog2(sequence.frames, sequence.homographies)
    mask = _BASELINES[sequence].mask(frame.t).astype(np.float32)
    value = cv2.resize(mask, sequence.size, interpolation=cv2.INTER_AREA)
    return {"mosaic": Cue(value, np.ones(value.shape, bool))}
