"""Where somebody may rest: pixels whose color is another one in far frames, though nothing moves there in either.

Whoever stands is background to every cue of motion. But something came or left, and the frame alone does not tell
which of the two colors is the background's. So the first round says nothing about these pixels, and the student learns
the subject's looks from the frames in which it moves. The second round asks the student about them.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from backdrop.motion.neighbors import Field, StabilizedSequence, Valid
from backdrop.student.cues.cue import color_difference

FAR_FRAMES = 16
"""Frames that a frame is compared with, spread over `FAR_REACH`."""

FAR_REACH = 500
"""Most frames between a frame and a far one: chains of homographies of a fixed length cost the same in any video."""

OTHER_COLOR = 32.0
"""Color difference in gray levels (see `color_difference`) from which on another thing is seen."""

STILL = 0.3
"""Evidence of motion below this says that nothing moves in a far frame."""

LEAST_SHARE = 0.1
"""Share of the far frames, and two at least, that must show the other color: one is chance."""

MISLAID = 0.2
"""A far frame that differs in more than this share of its pixels does not lie where it should, or the light changed."""

RESTING_LEVEL = 0.3
"""Below one half, as the other color speaks for somebody who came or left, too."""


def far_frames(count: int, t: int, every: int) -> list[int]:
    """Frames 0, `every`, ... of a grid over the sequence that are within `FAR_REACH` of frame t, without t."""
    reach = min(count, 2 * FAR_REACH)
    step = every * max(1, round(reach / FAR_FRAMES / every))
    return [u for u in range(0, count, step) if u != t and abs(u - t) <= FAR_REACH]


def doubtful(sequence: StabilizedSequence, t: int, every: int, moving: Callable[[int], Field]) -> Valid:
    """Where frame t may show somebody at rest, or the background that somebody at rest hides in other frames.

    Args:
        every: frames 0, `every`, ... have evidence of motion.
        moving: evidence of motion of such a frame, 0.5 at its threshold.
    """
    image = sequence.image(t)
    shown = np.zeros(image.shape[:2], np.float32)
    other = np.zeros_like(shown)
    for u in far_frames(len(sequence), t, every):
        H = sequence.motion(u, t)
        if H is None:
            continue
        view, inside = sequence.laid(u, H)
        moved = cv2.warpPerspective(cv2.dilate(moving(u), np.ones((5, 5), np.uint8)), H, sequence.size)
        still = inside & (moved < STILL)
        if not still.any():
            continue
        differs = still & (color_difference(image, _as_bright(view, image, still)) > OTHER_COLOR)
        if differs.sum() <= MISLAID * still.sum():
            shown += still
            other += differs
    doubt = (other >= np.maximum(2, LEAST_SHARE * shown)) & (moving(t) < 0.5)
    return cv2.morphologyEx(doubt.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def resting_evidence(student: Field, doubt: Valid) -> Field:
    """Evidence of a subject at rest where there is doubt, 0.5 where the student's mask is at `RESTING_LEVEL`.

    Means of the student's mask over the doubtful pixels around: they follow the outline at which the color changes.
    """
    sigma = student.shape[0] / 48
    mass = cv2.GaussianBlur(doubt.astype(np.float32), (0, 0), sigma)
    mean = cv2.GaussianBlur(student * doubt, (0, 0), sigma) / np.maximum(mass, 1e-6)
    return np.minimum(mean * 0.5 / RESTING_LEVEL, 1)


def _as_bright(
    view: UInt8[np.ndarray, "H W 3"], image: UInt8[np.ndarray, "H W 3"], where: Valid
) -> UInt8[np.ndarray, "H W 3"]:
    """The view at the image's exposure."""
    gain = _usual_brightness(image, where) / max(_usual_brightness(view, where), 1.0)
    return cv2.convertScaleAbs(view, alpha=float(np.clip(gain, 0.5, 2)))  # type: ignore[return-value]


def _usual_brightness(image: UInt8[np.ndarray, "H W 3"], where: Valid) -> float:
    """The median over some pixels of the mean of their channels."""
    total = cv2.transform(image.astype(np.uint16), np.ones((1, 3)))
    counts = np.cumsum(np.bincount(total[where], minlength=1))
    middle = [(counts[-1] - 1) // 2, counts[-1] // 2]
    return float(np.searchsorted(counts, middle, side="right").mean() / 3)
