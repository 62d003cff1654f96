"""The detector D: an image -> for each cell of an 8 x 8 grid a probability p_c and a box b_c; or one box alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from backdrop.networks.encoder import levels
from backdrop.networks.parameters import DetectorParams

_OFF = -1e4  # logit of a border cell: exactly 0 after a float32 softmax


class Proposals(NamedTuple):
    """What D proposes for a batch of images.

    p: (B, C) probabilities, each row sums to 1, 0 at the border cells.
    box: (B, C, 4) boxes, cx, cy, w, h in [-1, 1] image coordinates (see `spatial`).
    scale: (B, C, 2) box sides as shares of the image, in [detector.scale].
    offset: (B, C, 2) offsets of the centers from their cells before clamping, in [-1, 1] image coordinates.
    """

    p: Float[Tensor, "B C"]
    box: Float[Tensor, "B C 4"]
    scale: Float[Tensor, "B C 2"]
    offset: Float[Tensor, "B C 2"]

    def best(self) -> tuple[Int[Tensor, "B"], Float[Tensor, "B 4"]]:
        """argmax_c p_c and its box (Algorithm 1, test branch)."""
        cell = self.p.argmax(dim=1)
        return cell, select(self.box, cell)


def select(values: Float[Tensor, "B C N"], cell: Int[Tensor, "B"]) -> Float[Tensor, "B N"]:
    """Row `cell[b]` of each image b."""
    return values[torch.arange(len(cell), device=cell.device), cell]


def live_cells(grid: int) -> Tensor:
    """(C,) bool: True for the cells that may be chosen, i.e. all but the outer ring; a single cell is live."""
    live = torch.zeros(grid, grid, dtype=torch.bool)
    live[1:-1, 1:-1] = True
    if grid == 1:
        live[:] = True
    return live.flatten()


def cell_centers(grid: int) -> Float[Tensor, "C 2"]:
    """Centers (x, y) of the cells in [-1, 1] image coordinates, row by row."""
    axis = (torch.arange(grid) + 0.5) * 2 / grid - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


class Detector(nn.Module):
    """ResNet-18 (or another `backbone`) up to stride 16, then a 1 x 1 convolution to 5 numbers per cell, as in YOLO.

    Source: journal version, section 3.6.

    scale = min + (max - min) sigmoid(s); offset = tanh(o) * limit; the center is clamped to the image.
    The border cells' logits are set to a large negative value BEFORE the softmax, so that the live cells
    share all of the probability.

    With `detector.grid` 1 the same head regresses one box, from the mean of the features over the image (2022,
    Fig. 11d): p is 1 and nothing can be learned about it.
    """

    live: Tensor
    centers: Tensor

    def __init__(self, params: DetectorParams, weights: str, backbone: str = "resnet18") -> None:
        super().__init__()
        self.params = params
        self.grid = params.grid
        encoder = levels(backbone, weights)
        self.trunk = nn.Sequential(*(module for part in encoder.parts[:4] for module in part))
        # One 1 x 1 convolution to 5 numbers, in two parts so that boxes can have another learning rate.
        self.head = nn.Conv2d(encoder.widths[3], 1, kernel_size=1)
        self.box_head = nn.Conv2d(encoder.widths[3], 4, kernel_size=1)
        with torch.no_grad():  # all cells start alike: p near uniform, boxes of medium size at their cells
            self.head.weight.mul_(0.01)
            # Boxes share the trunk with p: with weights other than 0 they would drift while only p learns.
            if params.zero_start:
                self.box_head.weight.zero_()
            else:
                self.box_head.weight.mul_(0.01)
            for bias in (self.head.bias, self.box_head.bias):
                bias.zero_()  # type: ignore[union-attr]
        self.register_buffer("live", live_cells(self.grid), persistent=False)
        self.register_buffer("centers", cell_centers(self.grid), persistent=False)

    @torch.no_grad()
    def start_boxes(self, side: tuple[float, float]) -> None:
        """Let all boxes begin with these sides (width, height as shares of the image), as far as the range allows."""
        low, high = self.params.scale
        share = (torch.tensor(side) - low) / (high - low)
        self.box_head.bias[:2] = share.clamp(0.05, 0.95).logit()  # type: ignore[index]

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Proposals:
        """Args: normalized image of any size; it is resampled to `detector.input` squared."""
        side = self.params.input
        with torch.autocast(image.device.type, enabled=False):  # antialiasing knows no bfloat16
            small = F.interpolate(image.float(), (side, side), mode="bilinear", align_corners=False, antialias=True)
        features = self.trunk(small)
        if self.grid == 1:
            features = features.mean(dim=(2, 3), keepdim=True)
        p = self.head(features).flatten(1).float().masked_fill(~self.live, _OFF).softmax(dim=1)
        raw = self.box_head(features).flatten(2).transpose(1, 2).float()
        low, high = self.params.scale
        scale = low + (high - low) * raw[..., :2].sigmoid()
        # 1.5 box widths: larger offsets are covered by the neighboring cells' boxes. The limit is a constant
        # for the gradient, or a box could grow only in order to move.
        limit = 2 * scale.detach() if self.params.offset_unit == "box" else 2 / self.grid
        offset = raw[..., 2:].tanh() * self.params.offset * limit
        center = (self.centers + offset).clamp(-1, 1)
        return Proposals(p, torch.cat([center, 2 * scale], dim=-1), scale, offset)
