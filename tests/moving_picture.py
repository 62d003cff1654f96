"""Frames of a picture that moves, and how far two images are apart."""

from __future__ import annotations

import cv2
import numpy as np


def moving_picture(count: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """A smooth picture without symmetry that moves two pixels a frame."""
    seed = np.random.default_rng(7).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = cv2.resize(seed, (width, height), interpolation=cv2.INTER_CUBIC)
    return [np.roll(picture, 2 * t, axis=1) for t in range(count)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean absolute difference of two images, in gray levels."""
    return float(np.abs(a.astype(float) - b.astype(float)).mean())
