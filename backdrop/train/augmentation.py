"""Random changes of color and handedness that the images of one training frame undergo together."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

from backdrop.learn import ranks

SATURATION, CONTRAST, BRIGHTNESS, TINT_CHANGE = 0.4, 0.25, 0.12, 0.05

HUE = 0.5
"""Largest rotation of colors about the gray axis, in radians."""


class ColorChange:
    """An affine map of RGB per image: hue, saturation, contrast, brightness and tint, drawn once.

    The same map may be laid on several pictures of a frame (the image and its background), whose differences
    then stay differences.

    Args:
        count: images B.
    """

    def __init__(self, count: int, generator: torch.Generator | None = None) -> None:
        def draw(*shape: int) -> Tensor:
            return ranks.rand(count, *shape, generator=generator, device=device) * 2 - 1  # in [-1, 1]

        device = generator.device if generator is not None else torch.device("cpu")
        gray = torch.full((3, 3), 1 / 3, device=device)
        eye = torch.eye(3, device=device)
        # Rodrigues' rotation about (1, 1, 1): gray stays gray.
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / math.sqrt(3)
        angle = HUE * draw(1, 1)
        rotation = eye * angle.cos() + cross * angle.sin() + gray * (1 - angle.cos())
        saturation = gray + (eye - gray) * (1 + SATURATION * draw(1, 1))
        contrast = 1 + CONTRAST * draw(1, 1)
        self.matrix = contrast * saturation @ rotation
        self.shift = 0.5 - 0.5 * contrast[..., 0] + BRIGHTNESS * draw(1) + TINT_CHANGE * draw(3)

    def __call__(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Args: RGB in [0, 1]; so is what comes back, clipped."""
        changed = torch.einsum("bij,bjhw->bihw", self.matrix.to(image, non_blocking=True), image)
        return (changed + self.shift.to(image, non_blocking=True)[..., None, None]).clamp(0, 1)


def mirrored(
    pictures: tuple[Num[Tensor, "B _ H W"], ...], generator: torch.Generator | None = None
) -> tuple[Num[Tensor, "B _ H W"], ...]:
    """All pictures of a frame mirrored left to right, or none of them, by one toss of a coin per frame."""
    device = generator.device if generator is not None else torch.device("cpu")
    flip = ranks.rand(len(pictures[0]), generator=generator, device=device) < 0.5
    flip = flip.to(pictures[0].device, non_blocking=True)[:, None, None, None]
    return tuple(torch.where(flip, p.flip(3), p) for p in pictures)
