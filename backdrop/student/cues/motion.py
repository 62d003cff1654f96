"""Cue motion: what a small network, taught on collages, makes of flow and background around a frame.

It has seen no real image and no label that a person made (`backdrop.collage`).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from backdrop.io.masks import resize_soft
from backdrop.motion.evidence import VIEW_OFFSETS, halved, scene_evidence
from backdrop.motion.homography import resampling, warp
from backdrop.motion.neighbors import KNOWN
from backdrop.networks.motion_network import motion_masks, shipped_motion_network
from backdrop.student.cues.cue import Cue, CueFrame

DOUBT = 0.5
"""Power that the soft mask is raised to: on real footage the network is less sure than on collages, so that a quarter
already counts as half."""

HalfView = tuple[np.ndarray, np.ndarray]
"""RGB of another frame laid over this one, at half the evidence's size, and where it shows background."""


def motion_cue(frame: CueFrame) -> dict[str, Cue]:
    """The motion network's soft mask; none in a sequence of one frame."""
    if len(frame.sequence) < 2:
        return {}
    scene = scene_evidence(frame.picture(frame.t), _half_views(frame))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # frames are spread over processes
    soft = motion_masks(shipped_motion_network(), [frame.flow_evidence], [scene])[0]
    torch.set_num_threads(threads)
    value = cv2.resize(soft, frame.sequence.size, interpolation=cv2.INTER_LINEAR).clip(0, 1) ** DOUBT
    return {"motion": Cue(value, np.ones(value.shape, bool))}


def _half_views(frame: CueFrame) -> list[HalfView]:
    """The frames at `VIEW_OFFSETS` that a chain of homographies leads to."""
    sequence, t = frame.sequence, frame.t
    half = (frame.evidence_size[0] // 2, frame.evidence_size[1] // 2)
    scale = resampling(sequence.size, half)
    found = []
    for offset in VIEW_OFFSETS:
        u = t + round(offset / sequence.gap) * sequence.gap
        H = sequence.motion(u, t)
        if H is None or u == t:
            continue
        H = scale @ H @ np.linalg.inv(scale)
        view, inside = warp(halved(frame.picture(u)), H, half)
        subject = sequence.subject(u)
        if subject is not None:
            laid = cv2.warpPerspective(resize_soft(subject, half), H, half)
            inside &= cv2.dilate(laid, np.ones((3, 3), np.uint8)) < KNOWN
        found.append((view, inside))
    return found
