"""T, the temporal instability of DAVIS: how much an outline changes its shape from one frame to the next.

After Perazzi et al., CVPR 2016, section 4: points of the two outlines are described by shape contexts and matched in
order by dynamic time warping; T is the mean cost of the matches. 0: the same shape, wherever it lies. Simplified: only
the largest outline counts, and the second one starts at the point most like the first one's start.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.distance import cdist

from backdrop.io.masks import Mask

POINTS = 100
"""Points of an outline, evenly spaced."""

ANGLES, RADII = 12, np.geomspace(1 / 8, 2, 5)
"""Bins of a shape context: sectors, and outer radii as shares of the outline's mean distance between points."""


def temporal_instability(masks: list[Mask]) -> float:
    """Mean T over the pairs of successive masks; NaN where no pair has an outline in both."""
    outlines = [_outline(mask) for mask in masks]
    costs = [_cost(a, b) for a, b in zip(outlines, outlines[1:], strict=False) if a is not None and b is not None]
    return float(np.mean(costs)) if costs else float("nan")


def _outline(mask: Mask) -> np.ndarray | None:
    """`POINTS` points of the largest outline, (x, y); None where there is none."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not found:
        return None
    points = max(found, key=cv2.contourArea)[:, 0].astype(float)
    if len(points) < 8:
        return None
    steps = np.linalg.norm(np.diff(points, axis=0, append=points[:1]), axis=1)
    at = np.concatenate([[0], np.cumsum(steps)])
    wanted = np.linspace(0, at[-1], POINTS, endpoint=False)
    closed = np.vstack([points, points[:1]])
    return np.stack([np.interp(wanted, at, closed[:, k]) for k in (0, 1)], axis=1)


def _shape_contexts(points: np.ndarray) -> np.ndarray:
    """(`POINTS`, bins): the share of the other points in each bin of log radius and angle around a point."""
    apart = points[None] - points[:, None]
    distance = np.linalg.norm(apart, axis=2)
    ring = np.digitize(distance / distance.mean(), RADII)
    sector = (np.arctan2(apart[..., 1], apart[..., 0]) + np.pi) / (2 * np.pi) * ANGLES
    cell = ring * ANGLES + np.minimum(sector.astype(int), ANGLES - 1)
    others = ~np.eye(len(points), dtype=bool) & (ring < len(RADII))
    counts = [np.bincount(row[kept], minlength=len(RADII) * ANGLES) for row, kept in zip(cell, others, strict=True)]
    return np.array(counts) / (len(points) - 1)


def _cost(first: np.ndarray, second: np.ndarray) -> float:
    """Mean cost of the best matching in order."""
    a, b = _shape_contexts(first), _shape_contexts(second)
    chi = 0.5 * cdist(a, b, lambda u, v: float(((u - v) ** 2 / np.maximum(u + v, 1e-9)).sum()))
    chi = np.roll(chi, -int(chi[0].argmin()), axis=1)
    total = np.full((POINTS + 1, POINTS + 1), np.inf)
    length = np.zeros((POINTS + 1, POINTS + 1))
    total[0, 0] = 0
    for i in range(1, POINTS + 1):
        for j in range(1, POINTS + 1):
            options = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
            best = min(options, key=lambda place: total[place])
            total[i, j] = total[best] + chi[i - 1, j - 1]
            length[i, j] = length[best] + 1
    return float(total[-1, -1] / length[-1, -1])
