"""Cue layers: motion that no layer of the background explains, where there is texture to see it by.

It takes the parallax of poles and rocks for background, which speed against one homography cannot.
"""

from __future__ import annotations

import cv2
import numpy as np

from backdrop.motion.evidence import LEAST_SCALE, texture
from backdrop.student.cues.cue import SLOW_MOTION, Cue, CueFrame, scaled

LAYERS_FLOOR = 0.02
"""Least threshold of residual over its 98th percentile, times texture."""


def layers_cue(frame: CueFrame) -> Cue | None:
    """Median over the neighbors of the least residual over layers, each divided by its scale, times texture.

    Where the scale is below `SLOW_MOTION` pixels, hardly anything moves: the residual fades with the scale's square, so
    that noise does not fill the range.
    """
    if len(frame.sequence) < 2:
        return None
    evidence = frame.flow_evidence
    known = evidence[:, 5, 0, 0] > 0
    if not known.any():
        return None
    scale = np.exp(2 * evidence[known, 4:5, :1, :1]) - LEAST_SCALE  # the 98th percentile of the residual in pixels
    fading = np.clip(scale / SLOW_MOTION, 0, 1) ** 2
    least = np.median(evidence[known, 2] * fading[:, 0], axis=0)
    size = frame.sequence.size
    raw = cv2.resize(cv2.GaussianBlur(least, (0, 0), 0.7), size, interpolation=cv2.INTER_LINEAR)
    trust = texture(cv2.cvtColor(frame.picture(frame.t), cv2.COLOR_RGB2GRAY))
    raw *= cv2.resize(trust, size, interpolation=cv2.INTER_LINEAR)
    return scaled(raw, frame.where(np.ones(raw.shape, bool)), LAYERS_FLOOR)
