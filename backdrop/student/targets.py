"""What the student learns from: augmentation, targets, loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from backdrop.learn import ranks
from backdrop.networks.encoder import normalize

IGNORED = 255
"""Pseudo-masks are stored as 0..254 for 0..1; this value says that nothing is known."""


def augment(
    image: Float[Tensor, "B 3 H W"], label: Float[Tensor, "B 2 H W"], generator: torch.Generator
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 2 H W"]]:
    """Random affine and color changes, drawn per image.

    Convention: image coordinates in [-1, 1], align_corners=False; the drawn matrices map output to input positions.

    Args:
        image: RGB in [0, 1].
        label: mask, and weight (0: ignored; so is what lies outside the image).
    """
    count, device = len(image), image.device

    def draw(*shape: int) -> Tensor:  # in [-1, 1]
        return (ranks.rand(count, *shape, generator=generator) * 2 - 1).to(device, non_blocking=True)

    aspect = image.shape[3] / image.shape[2]
    zoom, angle = torch.exp(0.35 * draw()), 0.25 * draw()
    mirror = torch.sign(draw())
    stretch = torch.exp(0.1 * draw())
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    shift = 0.25 * draw(2)
    theta = torch.stack(
        [cos * stretch * mirror, -sin / aspect, shift[:, 0], sin * aspect * mirror, cos / stretch, shift[:, 1]], dim=1
    ).reshape(count, 2, 3)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    label = F.grid_sample(label, grid, padding_mode="zeros", align_corners=False)
    gray = image.mean(dim=1, keepdim=True)
    image = gray + (image - gray) * (1 + 0.3 * draw(1, 1, 1))
    image = (image - 0.5) * (1 + 0.25 * draw(1, 1, 1)) + 0.5 + 0.12 * draw(1, 1, 1) + 0.05 * draw(3, 1, 1)
    return image.clamp(0, 1), label


def targets(stored: UInt8[Tensor, "B H W"], band: tuple[float, float] | None) -> Float[Tensor, "B 2 H W"]:
    """Stored pseudo-masks -> mask and weight.

    Args:
        band: soft values below it become 0, above it 1, inside it weigh nothing; None: soft masks stay soft. (Soft
            masks shrink from round to round.)
    """
    known = stored != IGNORED
    soft = stored.float() / (IGNORED - 1)
    if band is None:
        return torch.stack([soft.clamp(max=1) * known, known.float()], dim=1)
    hard = (soft > band[1]) & known
    return torch.stack([hard.float(), (known & ((soft <= band[0]) | hard)).float()], dim=1)


def student_loss(logits: Float[Tensor, "B 1 H W"], label: Float[Tensor, "B 2 H W"]) -> Tensor:
    """Binary cross-entropy over the pixels of all ranks' batches that weigh something."""
    mask, weight = label[:, :1], label[:, 1:]
    loss = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return (loss * weight).sum() / ranks.mean(weight.sum()).clamp(min=1)


def to_normal(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Normalized, in the memory layout that convolutions are fastest in."""
    return normalize(image).contiguous(memory_format=torch.channels_last)
