"""Non-local consensus voting (Faktor and Irani, BMVC 2014: "Video segmentation by non-local consensus
voting").

Superpixels first vote by how unlike the background they move. Then each takes the mean vote of those of the whole video
that look like it, over and over: what moves sometimes lends its votes to what looks the same and rests. Simplified: the
vote is the speed of stabilized flow (the original adds visual saliency); looks are mean colors with their spread, a
histogram of hues and edges, and the place in the frame, less weighty; a fixed number of neighbors by exact search.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.sparse import coo_matrix, csr_matrix
from scipy.spatial import cKDTree

from backdrop.io.masks import Soft
from backdrop.motion.regions.stretch import Stretch, blurred, stretched
from backdrop.motion.regions.superpixels import Regions, superpixels

NLC_REGIONS = 250

ALIKE_REGIONS = 24
"""Superpixels of the video that a superpixel asks."""

VOTES = 12
"""Rounds of voting."""

LOOKS_WIDTH = 0.35
"""Distance of looks at which a neighbor's vote counts a third."""

OWN = 0.25
"""Weight of a superpixel's first vote in each round: votes spread, and do not flow away."""

PLACE_WEIGHT = 0.6
"""Weight of the place in the frame against the looks."""

ANGLES = 6


def nlc_masks(stretch: Stretch) -> Iterator[Soft]:
    """Soft masks: the superpixels' votes after the last round, in shares of the frames' largest."""
    frames, votes, looks = [], [], []
    for t in range(len(stretch)):
        image = stretch.image(t)
        frames.append(superpixels(image, NLC_REGIONS))
        votes.append(frames[-1].mean(stretch.speed(t)))
        looks.append(describe_regions(image, frames[-1]))
    first = np.concatenate(votes)
    ways = listening(np.concatenate(looks))
    vote = first
    for _ in range(VOTES):
        vote = (1 - OWN) * (ways @ vote) + OWN * first
    vote = np.maximum(vote - np.median(vote), 0)
    shares = stretched(vote, 99) if vote.any() else vote
    start = 0
    for regions in frames:
        mine = shares[start : start + regions.parts].astype(np.float32)
        start += regions.parts
        yield blurred(mine[regions.labels], 0.003).clip(0, 1)


def listening(looks: Float[np.ndarray, "N D"]) -> csr_matrix:
    """(N, N), rows of sum 1: how much each superpixel listens to those that look like it."""
    count = min(ALIKE_REGIONS, len(looks))
    distance, number = cKDTree(looks).query(looks, k=count)
    weight = np.exp(-np.square(distance.reshape(len(looks), -1) / LOOKS_WIDTH))
    weight /= weight.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(looks)), weight.shape[1])
    return coo_matrix((weight.ravel(), (rows, number.ravel())), shape=(len(looks), len(looks))).tocsr()


def describe_regions(image: UInt8[np.ndarray, "H W 3"], regions: Regions) -> Float[np.ndarray, "n D"]:
    """Looks and place of each superpixel: Lab color and its spread, edges by angle, x and y."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) / np.float32(50)
    color = regions.mean(lab)
    spread = np.sqrt(np.maximum(regions.mean(lab * lab) - color * color, 0))
    gray = np.ascontiguousarray(lab[..., 0])
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, k, 1 - k, ksize=3) / 4 for k in (1, 0))
    strength, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
    sector = np.minimum((angle / np.pi * ANGLES).astype(int), ANGLES - 1)
    edges = np.stack([regions.mean(strength * (sector == k)) for k in range(ANGLES)], axis=1)
    height, width = gray.shape
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    place = np.stack([regions.mean(x), regions.mean(y)], axis=1) * PLACE_WEIGHT
    return np.concatenate([color, spread, edges, place], axis=1)
