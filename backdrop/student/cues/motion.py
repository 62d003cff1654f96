"""Cue motion: what a small network, taught on collages, makes of flow and background around a frame.

It has seen no real image and no label that a person made (`backdrop.collage`).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float

from backdrop.io.masks import resize_region, resize_soft
from backdrop.motion.evidence import VIEW_OFFSETS, fastest_motion, halved, scene_evidence
from backdrop.motion.homography import resampling, warp
from backdrop.motion.neighbors import KNOWN, StabilizedSequence, lay_region
from backdrop.networks.motion_network import MotionNetwork, fit_norms, motion_masks, shipped_motion_network
from backdrop.run.chunks import one_thread
from backdrop.student.cues.cue import SLOW_MOTION, Cue, CueFrame
from backdrop.student.parameters import StudentParams

FIT_FRAMES = 16
"""Frames of a sequence, spread over it, that the network's norms are fitted to. (Forty give no more.)"""

LEAST_FRAMES = 4
"""With fewer frames in which something moves, the network stays as it came."""

HalfView = tuple[np.ndarray, np.ndarray]
"""RGB of another frame laid over this one, at half the evidence's size, and where it shows background."""


def motion_cue(frame: CueFrame) -> Cue | None:
    """The motion network's soft mask; none in a sequence of one frame."""
    if len(frame.sequence) < 2:
        return None
    network = frame.network or shipped_motion_network()
    with one_thread():
        soft = motion_masks(network, [frame.flow_evidence], [_scene(frame)])[0]
    value = cv2.resize(soft, frame.sequence.size, interpolation=cv2.INTER_LINEAR).clip(0, 1)
    return Cue(value, np.ones(value.shape, bool))


def fitted_network(sequence: StabilizedSequence, frames: Sequence[int], params: StudentParams) -> MotionNetwork:
    """The motion network fitted to a sequence (`fit_norms`), by those of some frames in which something moves."""
    shipped = shipped_motion_network()
    if len(sequence) < 2:
        return shipped
    flow: list[Float[np.ndarray, "G C h w"]] = []
    scene: list[Float[np.ndarray, "D h w"]] = []
    for t in frames:
        frame = CueFrame(sequence, t, params)
        if fastest_motion(frame.flow_evidence) >= SLOW_MOTION:
            flow.append(frame.flow_evidence)
            scene.append(_scene(frame))
    if len(flow) < LEAST_FRAMES:
        return shipped
    with one_thread():
        return fit_norms(shipped, flow, scene)


def _scene(frame: CueFrame) -> Float[np.ndarray, "D h w"]:
    return scene_evidence(frame.picture(frame.t), _half_views(frame))


def _half_views(frame: CueFrame) -> list[HalfView]:
    """The frames at `VIEW_OFFSETS` that a chain of homographies leads to."""
    sequence, t = frame.sequence, frame.t
    half = (frame.evidence_size[0] // 2, frame.evidence_size[1] // 2)
    scale = resampling(sequence.size, half)
    region = None if sequence.region is None else resize_region(sequence.region, half)
    found = []
    for offset in VIEW_OFFSETS:
        u = t + round(offset / sequence.gap) * sequence.gap
        H = sequence.motion(u, t)
        if H is None or u == t:
            continue
        H = scale @ H @ np.linalg.inv(scale)
        view, inside = warp(halved(frame.picture(u)), H, half)
        if region is not None:
            inside &= region & lay_region(region, H, half)
        subject = sequence.subject(u)
        if subject is not None:
            laid = cv2.warpPerspective(resize_soft(subject, half), H, half)
            inside &= cv2.dilate(laid, np.ones((3, 3), np.uint8)) < KNOWN
        found.append((view, inside))
    return found
