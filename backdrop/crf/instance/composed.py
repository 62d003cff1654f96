"""Frames in which subjects cover one another, composed of frames in which each stands apart: who is where is known.

No label is needed: the masks of lone subjects are rendered ones or pseudo-masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from backdrop.errors import BackdropError
from backdrop.io.masks import Mask, Soft


class LoneSubject(NamedTuple):
    """A frame with one subject that nothing covers. image: (H, W, 3) uint8 RGB. mask: (H, W) bool."""

    image: UInt8[np.ndarray, "H W 3"]
    mask: Mask


class Placing(NamedTuple):
    """Where a subject is laid.

    x, y: of the middle of the lower edge of its extent, in pixels. height: of its extent, in pixels.
    front: whether it covers those that are there, or they cover it. mirrored: left and right change places.
    """

    x: float
    y: float
    height: float
    front: bool = True
    mirrored: bool = False


class Composed(NamedTuple):
    """A composed frame. image: (H, W, 3) uint8 RGB. masks: (K, H, W) bool, what is seen of each, no pixel twice.

    whole: (K, H, W) bool, also what others cover.
    """

    image: UInt8[np.ndarray, "H W 3"]
    masks: Bool[np.ndarray, "K H W"]
    whole: Bool[np.ndarray, "K H W"]


def compose_frame(base: LoneSubject, others: Sequence[tuple[LoneSubject, Placing]]) -> Composed:
    """The base's frame with the other subjects in it, in this order.

    Raises:
        BackdropError: a subject's mask is empty.
    """
    image, whole, seen = base.image.astype(np.float32), [base.mask], [base.mask]
    for subject, place in others:
        colors, cover = laid(subject, place, base.mask.shape)
        there = cover > 0.5
        if not place.front:
            cover = np.where(np.any(seen, axis=0), np.float32(0), cover)
        image += cover[..., None] * (colors - image)
        taken = there if place.front else there & ~np.any(seen, axis=0)
        seen = [one & ~taken for one in seen] + [taken]
        whole.append(there)
    return Composed(np.clip(np.rint(image), 0, 255).astype(np.uint8), np.stack(seen), np.stack(whole))


def laid(
    subject: LoneSubject, place: Placing, shape: tuple[int, ...]
) -> tuple[Float32[np.ndarray, "H W 3"], Float32[np.ndarray, "H W"]]:
    """Colors and coverage in [0, 1] of a subject in an image of this shape.

    Raises:
        BackdropError: its mask is empty.
    """
    left, top, width, height = cv2.boundingRect(subject.mask.view(np.uint8))
    if not width:
        raise BackdropError("an empty mask has no subject to lay into a frame")
    scale = place.height / height
    across = -scale if place.mirrored else scale
    matrix = np.array(
        [
            [across, 0, place.x - across * (left + (width - 1) / 2)],
            [0, scale, place.y - scale * (top + height - 1)],
        ]
    )
    size = shape[1], shape[0]
    colors = cv2.warpAffine(subject.image.astype(np.float32), matrix, size, flags=cv2.INTER_LINEAR)
    cover = cv2.warpAffine(subject.mask.astype(np.float32), matrix, size, flags=cv2.INTER_LINEAR)
    return colors, cover  # type: ignore[return-value]


def random_placing(base: Mask, rng: np.random.Generator, apart: tuple[float, float] = (0.25, 0.9)) -> Placing:
    """A place at which a subject touches or overlaps that of a mask.

    Args:
        apart: least and largest distance of their middles, in widths of the base's subject.
    """
    left, top, width, height = cv2.boundingRect(base.view(np.uint8))
    side = rng.choice([-1.0, 1.0])
    x = left + width / 2 + side * rng.uniform(*apart) * width
    y = top + height - 1 + rng.uniform(-0.06, 0.06) * height
    return Placing(x, y, height * rng.uniform(0.8, 1.2), bool(rng.random() < 0.5), bool(rng.random() < 0.5))


def worsened_soft(mask: Mask, rng: np.random.Generator) -> Soft:
    """A soft mask as a fair segmenter would make it of a mask: outline moved by some pixels, blurred, uneven."""
    size = int(rng.integers(1, 6))
    change = cv2.erode if rng.random() < 0.5 else cv2.dilate
    moved = change(mask.astype(np.float32), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    noise = cv2.GaussianBlur(rng.standard_normal(mask.shape).astype(np.float32), (0, 0), 4)
    soft = cv2.GaussianBlur(moved, (0, 0), 1.5) + 0.1 * noise / max(float(noise.std()), 1e-6)
    return np.clip(0.02 + 0.96 * soft, 0, 1).astype(np.float32)  # type: ignore[return-value]
