"""Superpixels (SLIC, Achanta et al. 2012), what joins them, and bins of colors."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8

RULER = 15.0
"""SLIC's weight of nearness against color."""


BINS = 16
"""Of the histograms, a color channel."""


LEAST_AREA = 25
"""Percent of the mean area: what is smaller joins a neighbor."""


class Regions(NamedTuple):
    """A frame's superpixels. labels: 0 .. parts - 1, a pixel each. sizes: pixels of each."""

    labels: Int32[np.ndarray, "H W"]
    parts: int
    sizes: Float[np.ndarray, " n"]

    def mean(self, field: np.ndarray) -> np.ndarray:
        """(n,) or (n, C): the mean over each superpixel of a field (H, W) or (H, W, C)."""
        flat = field.reshape(self.labels.size, -1).astype(np.float64)
        sums = [np.bincount(self.labels.ravel(), column, minlength=self.parts) for column in flat.T]
        means = np.stack(sums, axis=1) / self.sizes[:, None]
        return means[:, 0] if field.ndim == 2 else means

    def histogram(self, codes: np.ndarray, bins: int) -> Float[np.ndarray, "n bins"]:
        """How many pixels of each code a superpixel has. codes: (H, W) in 0 .. bins - 1."""
        joint = self.labels.ravel().astype(np.int64) * bins + codes.ravel()
        return np.bincount(joint, minlength=self.parts * bins).reshape(self.parts, bins).astype(np.float64)


def slic_labels(image: UInt8[np.ndarray, "H W 3"], side: int, ruler: float, rounds: int) -> Int32[np.ndarray, "H W"]:
    """Numbers of the superpixels, of about `side` x `side` pixels, of an RGB image.

    Args:
        ruler: weight of nearness against color. rounds: of SLIC.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    slic = cv2.ximgproc.createSuperpixelSLIC(lab, cv2.ximgproc.SLIC, side, ruler)  # type: ignore[attr-defined]
    slic.iterate(rounds)
    slic.enforceLabelConnectivity(LEAST_AREA)
    return slic.getLabels()


def superpixels(image: UInt8[np.ndarray, "H W 3"], count: int) -> Regions:
    """About `count` superpixels of an RGB image."""
    height, width = image.shape[:2]
    side = max(4, round(float(np.sqrt(height * width / count))))
    _, labels = np.unique(slic_labels(cv2.GaussianBlur(image, (3, 3), 0), side, RULER, 6), return_inverse=True)
    labels = labels.reshape(height, width).astype(np.int32)
    sizes = np.bincount(labels.ravel()).astype(np.float64)
    return Regions(labels, len(sizes), sizes)


def borders(regions: Regions) -> tuple[Int[np.ndarray, "E 2"], Float[np.ndarray, " E"]]:
    """Pairs of superpixels that touch, the smaller number first, and the length of their border in pixels."""
    labels, lows, highs = regions.labels, [], []
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        apart = a != b
        lows.append(np.minimum(a[apart], b[apart]))
        highs.append(np.maximum(a[apart], b[apart]))
    return _counted(np.concatenate(lows), np.concatenate(highs), (regions.parts, regions.parts))


def links(
    here: Regions, there: Regions, shift: Float32[np.ndarray, "H W 2"]
) -> tuple[Int[np.ndarray, "E 2"], Float[np.ndarray, " E"]]:
    """Superpixels of two frames that share pixels when each pixel goes along `shift`, and how many.

    Args:
        shift: pixels, from the first frame to the second.
    """
    height, width = here.labels.shape
    y, x = np.mgrid[:height, :width]
    x2, y2 = np.rint(x + shift[..., 0]).astype(int), np.rint(y + shift[..., 1]).astype(int)
    inside = (x2 >= 0) & (x2 < width) & (y2 >= 0) & (y2 < height)
    return _counted(here.labels[inside], there.labels[y2[inside], x2[inside]], (here.parts, there.parts))


def _counted(
    first: Int32[np.ndarray, " N"], second: Int32[np.ndarray, " N"], parts: tuple[int, int]
) -> tuple[Int[np.ndarray, "E 2"], Float[np.ndarray, " E"]]:
    """The pairs that occur, in order, and how often. parts: how many numbers the first and the second have."""
    counts = np.bincount(first.astype(np.int64) * parts[1] + second, minlength=parts[0] * parts[1]).reshape(parts)
    return np.argwhere(counts), counts[counts > 0].astype(np.float64)


def color_bins(image: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
    """(H, W) the number of each pixel's color bin."""
    step = image.astype(np.int64) * BINS // 256
    return (step[..., 0] * BINS + step[..., 1]) * BINS + step[..., 2]
