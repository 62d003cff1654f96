"""Layers of the background, fitted to the optical flow along the image's border.

One homography explains a camera that only turns. A camera that travels moves near things differently from far ones. The
subject seldom fills the border, so what moves along it is background: each layer is a smooth model of flow that a share
of the border supports, and a pixel is background if any layer explains its flow.

Convention: flow is (H, W, 2) in pixels, (u, v) = (x to the right, y down), from a frame to its neighbor. Nothing is
stabilized.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

BORDER_WIDTH = 0.12
"""Width of the border along the image's edges, a share of its sides."""

MOST_LAYERS = 4

SUPPORT = 0.12
"""A layer is looked for while more than this share of the border is unexplained."""

TRIALS = 150
"""Affine models tried for a layer, each through three points (RANSAC)."""

TOLERANCE = (0.5, 0.06)
"""A model explains a point within so many pixels, or within this share of the border's 90th percentile of speed."""

CURVATURE = 0.02
"""Weight of the ridge penalty on the quadratic terms."""


class Grid(NamedTuple):
    """The monomials 1, x, y, x^2, xy, y^2 at each pixel, x and y in [-1, 1]; and the sampled pixels of the border."""

    quadratic: Float32[np.ndarray, "H W 6"]
    exact: Float64[np.ndarray, "P 6"]
    border: Int[np.ndarray, " P"]


@lru_cache(maxsize=8)
def _grid(size: tuple[int, int]) -> Grid:
    width, height = size
    monomials = _monomials(size)
    edge = np.ones((height, width), bool)
    top, left = int(BORDER_WIDTH * height), int(BORDER_WIDTH * width)
    edge[top : height - top, left : width - left] = False
    sampled = np.zeros_like(edge)
    sampled[2::5, 2::5] = True
    border = np.flatnonzero((edge & sampled).ravel())
    return Grid(monomials.astype(np.float32), monomials.reshape(-1, 6)[border], border)


def _monomials(size: tuple[int, int]) -> Float64[np.ndarray, "H W 6"]:
    width, height = size
    x, y = np.meshgrid(np.arange(width) / width * 2 - 1, np.arange(height) / height * 2 - 1)
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def _grid_within(region: Bool[np.ndarray, "H W"]) -> Grid:
    """The grid whose border is that of a region of interest: along the edges of its bounding box, as far as inside."""
    height, width = region.shape
    left, top, w, h = cv2.boundingRect(region.view(np.uint8))
    inner_x, inner_y = int(BORDER_WIDTH * w), int(BORDER_WIDTH * h)
    sampled = np.zeros_like(region)
    sampled[2::5, 2::5] = True
    sampled[top + inner_y : top + h - inner_y, left + inner_x : left + w - inner_x] = False
    border = np.flatnonzero((sampled & region).ravel())
    return Grid(_grid((width, height)).quadratic, _monomials((width, height)).reshape(-1, 6)[border], border)


def border_layers(
    flow: Float32[np.ndarray, "H W 2"], region: Bool[np.ndarray, "H W"] | None = None
) -> list[Float64[np.ndarray, "6 2"]]:
    """The background's layers, the one with most support first: coefficients of quadratic flow models.

    For each, an affine model by RANSAC on what the border leaves unexplained, then a weakly regularized quadratic on
    its inliers by reweighted least squares. Deterministic.

    Args:
        region: of interest: its border counts. None: the image's.

    Returns:
        Up to `MOST_LAYERS` models for `residuals`; none where no motion has support.
    """
    grid = _grid((flow.shape[1], flow.shape[0])) if region is None else _grid_within(region)
    if not len(grid.border):
        return []  # a region of a few pixels
    seen = flow.reshape(-1, 2)[grid.border].astype(np.float64)
    fastest = np.percentile(np.linalg.norm(seen, axis=1), 90)
    tolerance = max(TOLERANCE[0], TOLERANCE[1] * float(fastest))
    rng = np.random.default_rng(0)
    left = np.arange(len(seen))
    models: list[np.ndarray] = []
    while len(models) < MOST_LAYERS and len(left) > SUPPORT * len(seen):
        affine = _best_affine(grid.exact[left, :3], seen[left], tolerance, rng)
        if affine is None:
            break
        inliers = left[np.linalg.norm(grid.exact[left, :3] @ affine - seen[left], axis=1) < tolerance]
        if len(inliers) < 0.6 * SUPPORT * len(seen):
            break
        model = _quadratic(grid.exact[inliers], seen[inliers], affine, tolerance)
        models.append(model)
        left = left[np.linalg.norm(grid.exact[left] @ model - seen[left], axis=1) >= tolerance]
    return models


def _best_affine(
    points: Float64[np.ndarray, "n 3"], flow: Float64[np.ndarray, "n 2"], tolerance: float, rng: np.random.Generator
) -> Float64[np.ndarray, "3 2"] | None:
    """The affine model through three points that most points agree with; None where all triples lie on lines."""
    triples = rng.integers(0, len(points), (TRIALS, 3))
    triples = triples[np.abs(np.linalg.det(points[triples])) > 1e-3]
    if not len(triples):
        return None
    models = np.linalg.solve(points[triples], flow[triples])
    errors = np.matmul(points, models) - flow
    agreeing = (errors[..., 0] ** 2 + errors[..., 1] ** 2 < tolerance**2).sum(axis=1)
    return models[int(agreeing.argmax())]


def _quadratic(
    points: Float64[np.ndarray, "n 6"],
    flow: Float64[np.ndarray, "n 2"],
    affine: Float64[np.ndarray, "3 2"],
    tolerance: float,
) -> Float64[np.ndarray, "6 2"]:
    """Reweighted least squares (Cauchy weights), the quadratic terms held down by a ridge."""
    model = np.vstack([affine, np.zeros((3, 2))])
    ridge = np.diag([0, 0, 0, 1, 1, 1.0]) * len(points) * CURVATURE
    for _ in range(4):
        error = np.linalg.norm(points @ model - flow, axis=1)
        weighted = points / (1 + (error / (tolerance / 2)) ** 2)[:, None]
        model = np.linalg.solve(points.T @ weighted + ridge, weighted.T @ flow)
    return model


def residuals(
    flow: Float32[np.ndarray, "H W 2"], models: list[Float64[np.ndarray, "6 2"]]
) -> list[Float32[np.ndarray, "H W 2"]]:
    """What each layer leaves of the flow, in pixels."""
    grid = _grid((flow.shape[1], flow.shape[0]))
    return [flow - grid.quadratic @ model.astype(np.float32) for model in models]
