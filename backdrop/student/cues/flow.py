"""Cue flow: speed against the background over several gaps, as DIS sees it between stabilized frames."""

from __future__ import annotations

import cv2
import numpy as np

from backdrop.io.masks import resize_soft
from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.neighbors import Field, StabilizedSequence, Valid, background_flow, residual_flow
from backdrop.student.cues.cue import Cue, CueFrame, scaled

MOTION_FLOOR = 0.5
"""Least flow threshold in pixels of the working size: Otsu's rule would otherwise split the noise of a static scene."""

SLOW = 2.0
"""Pixels over the first gap that the fastest 3 % of a frame should move at least."""


def flow_cues(frame: CueFrame) -> dict[str, Cue]:
    """Speed against the background over each gap, looking forward and back.

    Where both directions exist the lower speed counts: the subject moves in both, background that it covers or
    uncovers looks moved in one. In frames in which little moves by `SLOW` pixels over the first gap, all gaps
    are taken 2 or 4 times as long. The stored flow serves for the neighbor that it was computed to, while there are
    no masks.

    Returns:
        A cue for each of `student.gaps` (in frames) that has a neighbor, named flow<gap>.
    """
    sequence, t, gaps, stored = frame.sequence, frame.t, frame.params.gaps, frame.stored
    first = _speed(sequence, t, gaps[0], stored)
    longer = 1
    if first is not None and first[1].any():
        moving = max(float(np.percentile(first[0][first[1]], 97)), SLOW / 4)
        longer = 2 ** int(np.clip(np.ceil(np.log2(SLOW / moving)), 0, 2))
    cues = {}
    for gap in gaps:
        for factor in (f for f in (4, 2, 1) if f <= longer):  # near the ends of a short sequence: what there is
            found = first if gap * factor == gaps[0] else _speed(sequence, t, gap * factor, stored)
            if found is not None:
                cues[f"flow{gap}"] = scaled(*found, MOTION_FLOOR)
                break
    return cues


def _speed(sequence: StabilizedSequence, t: int, gap: int, stored: FlowArchive | None) -> tuple[Field, Valid] | None:
    """The lower of the speeds to t + gap and t - gap in pixels, and where one is known; None without neighbors."""
    speeds = []
    for u in (t + gap, t - gap):
        if stored is not None and sequence.masks is None and u == int(sequence.homographies["neighbor"][t]):
            flow, inside = _reduced_flow(stored, t, sequence.size)
        else:
            H = sequence.motion(u, t)
            if H is None:
                continue
            flow, inside = residual_flow(sequence.image(t), sequence.image(u), H, fine=True)
        if inside.any():
            speed = np.linalg.norm(flow - background_flow(flow, inside, sequence.subject(t)), axis=2)
            speeds.append(np.where(inside, speed, np.inf).astype(np.float32))
    if not speeds:
        return None
    least = np.min(speeds, axis=0)
    return np.where(np.isfinite(least), least, 0), np.isfinite(least)


def _reduced_flow(stored: FlowArchive, t: int, size: tuple[int, int]) -> tuple[np.ndarray, Valid]:
    """The stored flow of frame t at the working size, in its pixels."""
    flow, valid = stored.read(t)
    factor = np.array([size[0] / flow.shape[1], size[1] / flow.shape[0]], np.float32)
    small = cv2.resize(flow, size, interpolation=cv2.INTER_AREA) * factor
    return small, resize_soft(valid.astype(np.float32), size) > 0.99
