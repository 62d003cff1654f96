"""Cue median: color difference to the median of stabilized neighbors.

It is the papers' known background B, made for each frame, so that it works with a moving camera.
"""

from __future__ import annotations

from backdrop.student.cues.cue import Cue, CueFrame, color_difference, scaled

COLOR_FLOOR = 16.0
"""Least threshold of the color difference in gray levels: sensor noise and JPEG stay below."""


def median_cue(frame: CueFrame) -> Cue | None:
    """Color difference to the median of the neighbors."""
    if frame.background is None:
        return None
    image = frame.sequence.image(frame.t)
    background, valid = frame.background
    return scaled(color_difference(image, background), frame.where(valid), COLOR_FLOOR)
