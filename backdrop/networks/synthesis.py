"""The synthesis network S: the crop of a box -> foreground and mask, through a bottleneck."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backdrop.networks.encoder import levels
from backdrop.networks.parameters import SynthesisParams
from backdrop.networks.spatial import focal_window

_MAP = 8  # side of the map that the decoder starts from


class Synthesis(NamedTuple):
    """What S makes of a crop.

    foreground: (B, 3, K, K) colors in the space of normalized images, unbounded.
    mask: (B, 1, K, K) in [0, 1], 1 = foreground; with `synthesis.divide_mask` its maximum in each crop is 1.
    """

    foreground: Float[Tensor, "B 3 K K"]
    mask: Float[Tensor, "B 1 K K"]


class _Stage(nn.Module):
    """One stage of the second half of a U-Net: upsample, join the skip, two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(inputs + skip, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.block(x if skip is None else torch.cat([x, skip], dim=1))


class SynthesisNetwork(nn.Module):
    """Bottleneck auto-encoder (journal version, section 3.6).

    An encoder makes two codes of the crop: `hidden[0]` numbers that linear layers turn into an 8 x 8 map,
    and `hidden[1]` numbers that are repeated over such a map (what does not depend on place). Both maps
    together have as many channels as the decoder's deepest stage (512 in 2022); the decoder doubles the side at each
    stage up to the crop's. The crop, and the mask on its way out, are multiplied by the focal window.
    """

    window: Tensor

    def __init__(self, params: SynthesisParams, weights: str, backbone: str = "resnet18") -> None:
        super().__init__()
        self.params = params
        encoder = levels(params.encoder if backbone == "resnet18" else backbone, weights)
        self.stem = encoder.stage(0)
        self.stages = nn.ModuleList(encoder.stage(level) for level in range(1, 5))
        widths = encoder.widths
        spatial, repeated = params.hidden
        ups = (params.crop // _MAP).bit_length() - 1
        channels = params.decoder[:ups][::-1]  # deepest first
        top = params.decoder[-1]
        self.to_spatial = nn.Linear(widths[-1], spatial)
        self.to_repeated = nn.Linear(widths[-1], repeated)
        layers: list[nn.Module] = [nn.ReLU(inplace=True)]
        for _ in range(params.linears - 1):
            layers += [nn.Linear(spatial, spatial), nn.ReLU(inplace=True)]
        self.mapped = max(1, top - repeated)
        self.to_map = nn.Sequential(*layers, nn.Linear(spatial, self.mapped * _MAP * _MAP), nn.ReLU(inplace=True))
        # The encoder's features of side crop/2 ... 8, deepest last, joined where the decoder has that side.
        self.skips = [widths[level] for level in range(ups)][::-1] if params.skip else [0] * ups
        inputs = [self.mapped + repeated, *channels[:-1]]
        skips = [*self.skips[1:], 0]
        self.decoder = nn.ModuleList(_Stage(i, s, o) for i, s, o in zip(inputs, skips, channels, strict=True))
        self.out = nn.Conv2d(channels[-1], 4, 1)
        if params.mask_start is not None:
            with torch.no_grad():
                self.out.bias[3] = math.log(params.mask_start / (1 - params.mask_start))  # type: ignore[index]
        self.register_buffer("window", focal_window(params.crop, params.window), persistent=False)

    def decoder_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn at `train.decoder_rate`: all behind the bottleneck."""
        parts = (self.to_map, self.decoder, self.out)
        return [parameter for part in parts for parameter in part.parameters()]

    def forward(self, crop: Float[Tensor, "B 3 K K"]) -> Synthesis:
        """Args: crop of the normalized image, before the window."""
        x = self.stem(crop * self.window)
        levels = [x]
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        code = x.mean(dim=(2, 3))
        mapped = self.to_map(self.to_spatial(code)).unflatten(1, (self.mapped, _MAP, _MAP))
        repeated = self.to_repeated(code)[:, :, None, None].expand(-1, -1, _MAP, _MAP)
        y = torch.cat([mapped, repeated], dim=1)
        for stage in self.decoder:
            side = 2 * y.shape[-1]
            skip = next((level for level in levels if level.shape[-1] == side), None) if self.params.skip else None
            y = stage(y, skip)
        y = self.out(y).float()
        mask = y[:, 3:].sigmoid() * self.window
        if self.params.divide_mask:  # it cannot vanish then: only its shape is learned
            mask = mask / mask.amax(dim=(2, 3), keepdim=True).clamp_min(1e-6)
        return Synthesis(y[:, :3], mask)
