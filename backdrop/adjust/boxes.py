"""The boxes of a subject through a video, steadied: bundle adjustment in which a body is a box.

E = E_R + E_T + E_P over x_t, a box per frame. E_R: to the nearest candidate of the frame, and never more than a limit
(`best_truncated`), so that frames without a mask, or with a wrong one, are bridged. E_T: center and size change evenly.
E_P: the size is near that of the whole track, and each box near its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import median_filter
from torch import Tensor

from backdrop.adjust.energy import best_truncated, changes, minimize_energy, robust
from backdrop.io.masks import Mask

BoxEdges = Float[np.ndarray, "4"]
"""Left, top, right, bottom edge of a box in pixels, 0 = the image's edge."""

MOST_PARTS = 6
"""So many of a frame's largest connected parts are candidates."""


class BoxWeights(NamedTuple):
    """Weights of the energy's terms. Lengths are shares of the track's size; sizes differ by their logarithms.

    spread: a residual of so much is one unit of Huber's function.
    limit: the most that a frame's E_R costs.
    center, size: of the changes of velocity, of E_T.
    usual: of the size's prior. near: of the start's.
    window: the start is the running median of so many frames. 1: the boxes themselves.
    """

    spread: float = 0.05
    limit: float = 8.0
    center: float = 0.1
    size: float = 0.2
    usual: float = 0.002
    near: float = 0.01
    window: int = 5


def extents(masks: Sequence[Mask]) -> Float[np.ndarray, "P 4"]:
    """The candidates of a frame: the extent of each mask, and those of its largest parts where it has several."""
    found = []
    for mask in masks:
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        sizes = stats[1:]
        if count > 2:
            sizes = sizes[np.argsort(-sizes[:, cv2.CC_STAT_AREA], kind="stable")[:MOST_PARTS]]
            found.append(cv2.boundingRect(mask.astype(np.uint8)))
        found += [row[:4] for row in sizes]
    left, top, width, height = np.array(found, np.float64).reshape(-1, 4).T
    return np.stack([left, top, left + width, top + height], axis=1)


def adjust_boxes(
    own: Float[np.ndarray, "T 4"],
    candidates: Sequence[Float[np.ndarray, "_ 4"]],
    times: Float[np.ndarray, "T"],
    weights: BoxWeights = BoxWeights(),  # noqa: B008 - a tuple of numbers
) -> Float[np.ndarray, "T 4"]:
    """A box for each frame from a subject's first one to its last.

    Args:
        own: the subject's box as left, top, right, bottom; NaN in a frame that does not show it. The first and the
            last frame show it.
        candidates: for each frame, any number of boxes that may be the subject's.
        times: of the frames, ascending, in any unit: frame numbers or seconds.

    Returns:
        Boxes in the same form, all finite; a single frame's as it is.
    """
    if len(own) < 2:
        return own.copy()
    seen = np.isfinite(own).all(axis=1)
    unit = float(np.median(np.diff(times)))
    moments = (times - times[0]) / unit
    scale = float(np.median(np.sqrt(np.prod(np.maximum(own[seen, 2:] - own[seen, :2], 1e-3), axis=1))))
    inner = _inner(own[seen], scale)
    filled = np.stack([np.interp(moments, moments[seen], column) for column in inner.T], axis=1)
    start = torch.from_numpy(median_filter(filled, (min(weights.window, len(own)), 1), mode="nearest"))
    most = max((len(one) for one in candidates), default=0)
    boxes, there = torch.zeros(len(own), most, 4, dtype=torch.float64), torch.zeros(len(own), most, dtype=torch.bool)
    for t, one in enumerate(candidates):
        boxes[t, : len(one)], there[t, : len(one)] = torch.from_numpy(_inner(one, scale)), True
    energy = _Energy(boxes, there, start, torch.from_numpy(moments), weights)
    (found,) = minimize_energy(energy, [start])
    return _edges(found.numpy(), scale)


class _Energy:
    """E of the boxes of a track, (T, 4): centers in units of the track's size, logarithms of width and height."""

    def __init__(self, boxes: Tensor, there: Tensor, start: Tensor, times: Tensor, weights: BoxWeights) -> None:
        self.boxes, self.there, self.start, self.times, self.weights = boxes, there, start, times, weights
        self.usual = start[:, 2:].median(dim=0).values

    def __call__(self, x: Tensor) -> Tensor:
        w = self.weights
        apart = robust((x[:, None] - self.boxes) / w.spread).sum(dim=2)
        reprojection = best_truncated(apart, self.there, w.limit).sum()
        bend = robust(changes(x, self.times, order=2) / w.spread)
        temporal = w.center * bend[:, :2].sum() + w.size * bend[:, 2:].sum()
        prior = w.usual * robust((x[:, 2:] - self.usual) / w.spread).sum()
        return reprojection + temporal + prior + w.near * robust((x - self.start) / w.spread).sum()


def _inner(edges: np.ndarray, scale: float) -> np.ndarray:
    sides = np.maximum(edges[:, 2:] - edges[:, :2], 1e-3)
    return np.concatenate([(edges[:, :2] + edges[:, 2:]) / 2 / scale, np.log(sides / scale)], axis=1)


def _edges(inner: np.ndarray, scale: float) -> np.ndarray:
    half = np.exp(inner[:, 2:]) * scale / 2
    return np.concatenate([inner[:, :2] * scale - half, inner[:, :2] * scale + half], axis=1)
