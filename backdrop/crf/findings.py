"""What D found in a frame, as the CRF of higher order takes it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backdrop.errors import BackdropError
from backdrop.io.masks import box_pixels


class BoxFindings(NamedTuple):
    """Boxes (K, 4), cx, cy, w, h in [-1, 1] image coordinates, and their scores (K,) in [0, 1].

    A box with NaN is no detection.
    """

    boxes: np.ndarray
    scores: np.ndarray


def best_finding(box: np.ndarray, p: np.ndarray) -> BoxFindings:
    """The box that a prediction gives, with the probability of D's likeliest cell as its score.

    Args:
        box: (4,). p: cell probabilities of any shape.
    """
    return BoxFindings(np.asarray(box)[None], np.asarray(p, np.float64).max(keepdims=True).reshape(1).clip(0, 1))


class Edges(NamedTuple):
    """A box's edges in pixels of the image that is computed, which may be a part of the frame, and its score."""

    left: float
    top: float
    right: float
    bottom: float
    score: float

    def within(self, window: tuple[slice, slice]) -> Edges:
        """In pixels of a part (rows, columns)."""
        y, x = window[0].start, window[1].start
        return Edges(self.left - x, self.top - y, self.right - x, self.bottom - y, self.score)

    def scaled(self, share: float) -> Edges:
        """In pixels of an image reduced to this share."""
        return Edges(share * self.left, share * self.top, share * self.right, share * self.bottom, self.score)


def edges_of(found: BoxFindings | None, size: tuple[int, int]) -> list[Edges]:
    """BoxFindings in pixels of an image of size (width, height).

    Raises:
        BackdropError: shapes or scores that no detections have.
    """
    if found is None:
        return []
    boxes, scores = np.asarray(found.boxes, np.float64), np.asarray(found.scores, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise BackdropError(f"the CRF needs boxes (K, 4) and scores (K,), not {boxes.shape} and {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise BackdropError("the scores of the CRF's boxes must lie in [0, 1]; segment again")
    boxed = zip(boxes, scores, strict=True)
    return [Edges(*box_pixels(box, size), float(score)) for box, score in boxed if np.isfinite(box).all()]
