"""Rival video_pca: VideoPCA (Stretcu and Leordeanu, BMVC 2015: "Multiple frames matching for object discovery in
video"), the teacher of Unsup-DilateU-Net.

What a few principal components of the frames do not reproduce is foreground; from there, histograms of color give
each pixel its posterior. Simplified: the components are those of a window of neighbors laid over the frame by
homographies (the original takes the frames as they are, and so a camera that stands); one pass from residual to
color model; the location prior is the residual blurred.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from backdrop.io.masks import Soft
from backdrop.motion.neighbors import views
from backdrop.motion.regions.stretch import blurred, stretched
from backdrop.motion.regions.superpixels import BINS, color_bins
from backdrop.rivals.material import Material

COMPONENTS = 3

WINDOW, PCA_SPACING = 16, 4
"""Neighbors in the window, and frames between two of them."""

RESIDUAL_BLUR = 0.015
"""Blur of the residual, share of the diagonal."""


def video_pca(material: Material) -> Iterator[Soft]:
    """Soft masks: posterior of the color times the residual around it."""
    counts = np.full((2, BINS**3), 1e-3)
    for t in range(len(material)):
        residual, colors = residual_map(material, t), color_bins(material.image(t))
        for which, weight in enumerate((1 - residual, residual)):
            counts[which] += np.bincount(colors.ravel(), weight.ravel(), minlength=BINS**3)
    background, subject = counts / counts.sum(axis=1, keepdims=True)
    posterior = subject / (subject + background)
    for t in range(len(material)):
        color = blurred(posterior[color_bins(material.image(t))], RESIDUAL_BLUR / 3)
        near = stretched(blurred(residual_map(material, t), RESIDUAL_BLUR))
        yield (color * near).clip(0, 1).astype(np.float32)


def residual_map(material: Material, t: int) -> Soft:
    """What the components of the window do not reproduce of frame t, smoothed, in [0, 1]."""
    image = material.image(t).astype(np.float32)
    window = views(material.stabilized, t, WINDOW, PCA_SPACING, parallax=False)
    if not window:
        return np.zeros(image.shape[:2], np.float32)
    # Where a view has no pixel the frame's own stands: it adds nothing to the residual.
    rows = np.stack([np.where(view.inside[..., None], view.image, image) for view in window]).astype(np.float32)
    error = blurred(np.linalg.norm(image - reproduced(image, rows), axis=2), RESIDUAL_BLUR)
    return stretched(np.maximum(error - np.median(error), 0))


def reproduced(image: Float[np.ndarray, "H W 3"], rows: Float[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """The image in the space of the `COMPONENTS` first principal components of the rows."""
    flat = rows.reshape(len(rows), -1)
    mean = np.median(flat, axis=0)
    centered = flat - mean
    values, vectors = np.linalg.eigh(centered @ centered.T)
    kept = np.flatnonzero(values > 1e-6 * max(float(values.max()), 1e-6))[-COMPONENTS:]
    basis = vectors[:, kept].T @ centered / np.sqrt(values[kept])[:, None]
    return (mean + (basis @ (image.ravel() - mean)) @ basis).reshape(image.shape).astype(np.float32)
