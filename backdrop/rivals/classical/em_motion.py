"""Rival em_motion: expectation maximization over a few motions (after Meunier, Badoual and Bouthemy, 2022: "EM-driven
unsupervised learning for efficient motion segmentation").

Each frame's flow is a mixture of quadratic models, twelve numbers each: a pixel's share in each model by its residual
(E), the models by weighted least squares (M). The background is the model that explains most of the image's border.
Simplified: the original trains a network by this very criterion, so that one pass segments unseen flow; here the
mixture is fitted to each frame, with shares smoothed in the image in place of the network's own smoothness, and it
starts from the frame before and anew, of which the likelier counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float, Float32

from backdrop.io.masks import Soft
from backdrop.motion.regions.stretch import ResidualFlow, blurred
from backdrop.rivals.material import Material

EM_MODELS = 3

EM_ROUNDS = 8

EM_WIDTH = 80
"""The mixture is fitted on an image reduced to this width."""

LEAST_SPREAD = 0.3
"""Of residuals about a model, pixels of the reduced flow's unit: flow is no more exact than that."""

EM_BORDER = 0.08

RIDGE = 1e-3


def em_motion(material: Material) -> Iterator[Soft]:
    """Soft masks: the share of all models but the background's."""
    shares: np.ndarray | None = None
    size = material.size
    small = (EM_WIDTH, max(8, round(EM_WIDTH * size[1] / size[0])))
    basis = quadratic_basis(small)
    for t in range(len(material)):
        field = material.flow(t)
        flow = cv2.resize(field.flow, small, interpolation=cv2.INTER_AREA)
        weight = cv2.resize(field.valid.astype(np.float32), small, interpolation=cv2.INTER_AREA)
        if material.speed(t).max() == 0:  # three models of nothing would share it
            yield np.zeros((size[1], size[0]), np.float32)
            continue
        starts = [first_shares(flow, weight), *([] if shares is None else [shares])]
        shares = max((fit(flow, weight, start, basis) for start in starts), key=lambda found: found[1])[0]
        subject = 1 - shares[background_model(shares, weight)]
        yield _enlarged(subject * weight, field, size)


def quadratic_basis(size: tuple[int, int]) -> Float[np.ndarray, "P 6"]:
    """1, x, y, x^2, xy, y^2 at each pixel, x and y in [-1, 1]."""
    x, y = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)


def first_shares(flow: Float32[np.ndarray, "h w 2"], weight: Float32[np.ndarray, "h w"]) -> Float[np.ndarray, "K h w"]:
    """By distance of the flow to `EM_MODELS` typical ones: the median, and what lies farthest from those chosen."""
    known = flow[weight > 0.5]
    chosen = [np.median(known, axis=0)]
    while len(chosen) < EM_MODELS:
        apart = np.min([np.linalg.norm(known - one, axis=1) for one in chosen], axis=0)
        far = known[apart >= np.percentile(apart, 98)]
        chosen.append(np.median(far, axis=0))
    distance = np.stack([np.linalg.norm(flow - one, axis=2) for one in chosen])
    return _softmax(-distance / LEAST_SPREAD)


def fit(
    flow: Float32[np.ndarray, "h w 2"],
    weight: Float32[np.ndarray, "h w"],
    shares: Float[np.ndarray, "K h w"],
    basis: Float[np.ndarray, "P 6"],
) -> tuple[Float[np.ndarray, "K h w"], float]:
    """The shares of each model after `EM_ROUNDS` rounds, each with a spread of its own, and how likely the flow is
    then (mean logarithm)."""
    height, width = weight.shape
    total = 0.0
    for _ in range(EM_ROUNDS):
        scores = []
        for share in shares:
            mass = (share * weight).ravel()
            weighted = basis * mass[:, None]
            # The ridge keeps a small region's model from being bent by noise far away from it.
            matrix = weighted.T @ basis + RIDGE * (1 + mass.sum()) * np.diag([0, 1, 1, 4, 4, 4])
            model = np.linalg.lstsq(matrix, weighted.T @ flow.reshape(-1, 2), rcond=None)[0]
            error = np.linalg.norm(flow - (basis @ model).reshape(height, width, 2), axis=2)
            spread = max(LEAST_SPREAD, float((mass * error.ravel()).sum() / max(mass.sum(), 1e-6)))
            likely = np.log(max(float(mass.mean()), 1e-4)) - 2 * np.log(spread) - error / spread
            scores.append(likely)
        total = float((np.logaddexp.reduce(scores) * weight).mean())
        shares = _softmax(np.stack([blurred(score, 0.01) for score in scores]))
    return shares, total


def background_model(shares: Float[np.ndarray, "K h w"], weight: Float32[np.ndarray, "h w"]) -> int:
    """The model that explains most of the border; of the whole image as well, so that no subject at it wins."""
    height, width = weight.shape
    band = np.ones((height, width), bool)
    inset = max(1, round(EM_BORDER * height)), max(1, round(EM_BORDER * width))
    band[inset[0] : -inset[0], inset[1] : -inset[1]] = False
    return int(np.argmax([(share * weight)[band].mean() + (share * weight).mean() for share in shares]))


def _enlarged(subject: np.ndarray, field: ResidualFlow, size: tuple[int, int]) -> Soft:
    full = cv2.resize(subject.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return (full * field.valid).clip(0, 1).astype(np.float32)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=0))
    return powers / powers.sum(axis=0)
