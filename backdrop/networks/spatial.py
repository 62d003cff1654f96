"""The spatial transformer T, its inverse, and the focal window.

Convention, for every function here:
    boxes        (B, 4) as cx, cy, w, h in image coordinates: x right, y down, [-1, 1] from the left (top)
                 edge of the image to the right (bottom) edge; w, h are full extents, so that w = 2 spans the image
    sampling     bilinear, align_corners=False: -1 and 1 are the outer edges of the outer pixels
    T            crop <- image: a crop's pixel (u, v) in [-1, 1] shows the image at (cx + u w/2, cy + v h/2)
    T^-1         image <- crop: an image's pixel (x, y) shows the crop at ((x - cx) 2/w, (y - cy) 2/h), 0 outside
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def _affine(scale: Tensor, shift: Tensor) -> Tensor:
    """(B, 2) scales and shifts -> (B, 2, 3) matrices for `affine_grid`."""
    matrix = torch.diag_embed(scale)
    return torch.cat([matrix, shift[..., None]], dim=-1)


def crop(image: Float[Tensor, "B C H W"], box: Float[Tensor, "B 4"], size: int) -> Float[Tensor, "B C K K"]:
    """T: the content of each box, resampled to size x size; border pixels repeat outside the image."""
    theta = _affine(box[:, 2:] / 2, box[:, :2])
    grid = F.affine_grid(theta, [len(box), image.shape[1], size, size], align_corners=False)
    return F.grid_sample(image, grid.to(image.dtype), padding_mode="border", align_corners=False)


def paste(
    patch: Float[Tensor, "B C K K"], box: Float[Tensor, "B 4"], size: tuple[int, int]
) -> Float[Tensor, "B C H W"]:
    """T^-1: each patch laid into its box on an image of `size` (H, W) that is 0 elsewhere."""
    theta = _affine(2 / box[:, 2:], -2 * box[:, :2] / box[:, 2:])
    grid = F.affine_grid(theta, [len(box), patch.shape[1], *size], align_corners=False)
    return F.grid_sample(patch, grid.to(patch.dtype), padding_mode="zeros", align_corners=False)


def expand(box: Float[Tensor, "B 4"], margin: float) -> Float[Tensor, "B 4"]:
    """The box about the same center with both sides (1 + margin) times as long (the erased region)."""
    return torch.cat([box[:, :2], box[:, 2:] * (1 + margin)], dim=-1)


def hole(box: Float[Tensor, "B 4"], size: tuple[int, int], learn: bool = False) -> Float[Tensor, "B 1 H W"]:
    """Mask of each box on an image of `size` (H, W): 1 = erased (hole), 0 = seen.

    A pixel belongs to the hole when its center lies in the box. No gradient reaches the box, unless `learn`: then
    that of an edge about a pixel wide does, and the values stay 0 and 1.
    """
    height, width = size
    x = (torch.arange(width, device=box.device) + 0.5) * 2 / width - 1
    y = (torch.arange(height, device=box.device) + 0.5) * 2 / height - 1
    cx, cy, w, h = (value[:, None] for value in (box if learn else box.detach()).float().unbind(-1))
    margin_x = w / 2 - (x - cx).abs()
    margin_y = h / 2 - (y - cy).abs()
    inside = ((margin_y >= 0)[:, None, :, None] & (margin_x >= 0)[:, None, None, :]).to(box.dtype)
    if not learn:
        return inside
    soft_x, soft_y = (margin_x * width / 2).sigmoid(), (margin_y * height / 2).sigmoid()
    soft = (soft_y[:, None, :, None] * soft_x[:, None, None, :]).to(box.dtype)
    return inside + (soft - soft.detach())


def focal_window(size: int, exponent: float = 4.0) -> Float[Tensor, "1 1 K K"]:
    """exp(1 - 1 / (1 - sqrt(x^n + y^n))), n = `exponent`: 1 at the center of a crop, 0 beyond the rounded border.

    The papers' n = 4 falls to one half at 0.64 of the way to the border, so that a subject must fill no more than
    that of its box; n = 12 does so at 0.86.
    Source: focal spatial transformer (Rhodin et al. 2019), used by all three papers.
    """
    axis = ((torch.arange(size) + 0.5) * 2 / size - 1).abs()
    radius = (axis[:, None] ** exponent + axis[None, :] ** exponent).sqrt()
    inside = radius < 1
    window = torch.where(inside, torch.exp(1 - 1 / (1 - radius.clamp(max=1 - 1e-6))), torch.zeros(()).to(radius))
    return window[None, None]
