"""Rival arp: primary object segmentation by region augmentation and reduction (Koh and Kim, CVPR 2017: "Primary object
segmentation in videos based on region augmentation and reduction").

The primary object recurs: its region in one frame looks like its regions in the others. Starting from what moves,
superpixels of color and motion that touch the region are added, and superpixels of it taken away, as long as the
chi-square distance to the region of the other frames falls. Simplified: the start is what moves by Otsu's rule (the
original picks among proposals of a color and a motion segmentation the ones that recur most); looks are one histogram
of color words; the others' region is that of the frames around, weighted by time, against their background.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Float

from backdrop.io.masks import Soft
from backdrop.motion.blobs import clean, otsu
from backdrop.motion.regions.stretch import blurred
from backdrop.motion.regions.superpixels import borders, superpixels
from backdrop.rivals.material import Material

ARP_REGIONS = 200

WORDS = 40
"""Colors that a pixel can have: k-means over the video."""

SWEEPS = 6
"""Over the whole video, at most."""

NEARNESS = 15.0
"""Frames at which another frame's weight falls to a third."""

MOTION_WEIGHT = 0.5
"""Of the speed in the superpixels' colors: a border of motion alone parts them, too."""

PRIOR = 0.3
"""What the speed of a superpixel weighs against its looks."""


def arp(material: Material) -> Iterator[Soft]:
    """Soft masks: the region, its staircase blurred."""
    codes = words(material)
    frames, chosen, looks, moving, pairs = [], [], [], [], []
    for t in range(len(material)):
        speed = material.speed(t)
        regions = superpixels(_colored(material.image(t), speed), ARP_REGIONS)
        start = clean(speed > otsu(speed, material.flow(t).valid)) if speed.any() else np.zeros(speed.shape, bool)
        frames.append(regions)
        chosen.append(regions.mean(start.astype(np.float32)) > 0.5)
        moving.append(regions.mean(speed))
        looks.append(regions.histogram(codes[t], WORDS))
        pairs.append(borders(regions)[0])
    for _ in range(SWEEPS):
        references = recurring(chosen, looks)
        new = [
            changed(*one, *reference)
            for one, reference in zip(zip(chosen, looks, moving, pairs, strict=True), references, strict=True)
        ]
        same = all(np.array_equal(a, b) for a, b in zip(new, chosen, strict=True))
        chosen = new
        if same:
            break
    for regions, kept in zip(frames, chosen, strict=True):
        yield blurred(kept[regions.labels].astype(np.float32), 0.003).clip(0, 1)


def words(material: Material) -> list[np.ndarray]:
    """Each frame's color words, (H, W) in 0 .. `WORDS` - 1."""
    every = max(1, len(material) // 20)
    labs = [_lab(material.image(t)).reshape(-1, 3)[::7] for t in range(0, len(material), every)]
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 0.5)
    _, _, centers = cv2.kmeans(np.concatenate(labs), WORDS, None, stop, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    half = np.square(centers).sum(axis=1) / 2
    found = []
    for t in range(len(material)):
        lab = _lab(material.image(t))
        found.append((lab.reshape(-1, 3) @ centers.T - half).argmax(axis=1).reshape(lab.shape[:2]))
    return found


def _lab(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.GaussianBlur(image, (3, 3), 0), cv2.COLOR_RGB2Lab).astype(np.float32)


def _colored(image: np.ndarray, speed: Soft) -> np.ndarray:
    """The image, redder where it moves, so that superpixels end at borders of motion."""
    red = np.zeros_like(image)
    red[..., 0] = 255
    share = (MOTION_WEIGHT * speed)[..., None]
    return np.rint(image * (1 - share) + red * share).astype(np.uint8)


def recurring(
    chosen: list[Bool[np.ndarray, " _"]], looks: list[Float[np.ndarray, "_ words"]]
) -> list[tuple[Float[np.ndarray, " words"], Float[np.ndarray, " words"]]]:
    """For each frame, the looks of the region and of the rest in the other frames, weighted by nearness in time."""
    inside = np.stack([look[kept].sum(axis=0) for look, kept in zip(looks, chosen, strict=True)])
    outside = np.stack([look[~kept].sum(axis=0) for look, kept in zip(looks, chosen, strict=True)])
    t = np.arange(len(looks))
    near = np.exp(-np.abs(t[:, None] - t) / NEARNESS)
    return list(zip(_region_shares(near @ inside), _region_shares(near @ outside), strict=True))


def changed(
    kept: Bool[np.ndarray, " n"],
    look: Float[np.ndarray, "n words"],
    moving: Float[np.ndarray, " n"],
    pairs: np.ndarray,
    *references: Float[np.ndarray, " words"],
) -> Bool[np.ndarray, " n"]:
    """One step of augmentation and reduction in a frame.

    A superpixel is added if it touches the region and its words are the region's rather than the background's, by
    chi-square; it is taken away in the opposite case.
    """
    nearer = chi_square(_region_shares(look), references[1]) - chi_square(_region_shares(look), references[0])
    nearer = nearer + PRIOR * (moving - 0.25)
    touching = np.zeros(len(kept), bool)
    for a, b in (pairs.T, pairs.T[::-1]):
        touching[a[kept[b]]] = True
    return np.where(kept, nearer > -0.1, touching & (nearer > 0.1))


def chi_square(one: Float[np.ndarray, "*n words"], other: Float[np.ndarray, " words"]) -> np.ndarray:
    """Distance of histograms of sum 1, in [0, 1]."""
    return (0.5 * np.square(one - other) / np.maximum(one + other, 1e-9)).sum(axis=-1)


def _region_shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1e-9)
