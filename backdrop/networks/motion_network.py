"""The motion network: evidence of motion around a frame -> soft mask of the subject.

It learns from rendered footage alone (`backdrop.collage`) and has seen neither a real image nor a label that a person
made. Its weights come with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from safetensors.torch import load_file
from torch import Tensor, nn

from backdrop.motion.evidence import FLOW_CHANNELS, SCENE_CHANNELS
from backdrop.networks.student import UNet

MOTION_WEIGHTS = Path(__file__).with_suffix(".safetensors")
"""The weights that come with the package, in half precision; `recipes/` says how they were made."""

STEM = 24
LEVELS = (32, 48, 64, 88)


class MotionNetwork(UNet):
    """One stem for all neighbors, mean and maximum over those that exist, then a U-Net at half the evidence's size."""

    def __init__(self) -> None:
        super().__init__(3 * STEM, LEVELS)
        self.stem = nn.Conv2d(FLOW_CHANNELS + 1, STEM, 4, stride=2, padding=1)
        self.scene = nn.Conv2d(SCENE_CHANNELS, STEM, 4, stride=2, padding=1)
        self.head = nn.Sequential(nn.Conv2d(LEVELS[0], 4, 1), nn.PixelShuffle(2))

    def forward(self, flow: Float[Tensor, "B G 6 h w"], scene: Float[Tensor, "B 4 h w"]) -> Float[Tensor, "B 1 h w"]:
        """Evidence (see `backdrop.motion.evidence`), sides multiples of 16 -> logits of the foreground."""
        gaps = flow.shape[1]
        known = (flow[:, :, 5:6, :1, :1] > 0).float()
        texture = scene[:, None, :1].expand(-1, gaps, -1, -1, -1) * known
        each = F.relu(self.stem(torch.cat([flow, texture], dim=2).flatten(0, 1))).unflatten(0, (-1, gaps)) * known
        mean = each.sum(dim=1) / known.sum(dim=1).clamp(min=1)
        x = torch.cat([mean, each.amax(dim=1), F.relu(self.scene(scene))], dim=1)
        return self.head(self.levels(x.contiguous(memory_format=torch.channels_last)))


def mirrored_evidence(
    flow: Float[Tensor, "B G 6 h w"], scene: Float[Tensor, "B 4 h w"]
) -> tuple[Float[Tensor, "B G 6 h w"], Float[Tensor, "B 4 h w"]]:
    """The evidence of the mirror images: horizontal flow changes its sign."""
    sign = torch.ones(FLOW_CHANNELS, device=flow.device)
    sign[0] = -1
    return flow.flip(4) * sign[:, None, None], scene.flip(3)


@torch.inference_mode()
def motion_masks(
    network: MotionNetwork,
    flow: Sequence[Float[np.ndarray, "G 6 h w"]],
    scene: Sequence[Float[np.ndarray, "4 h w"]],
) -> Float32[np.ndarray, "B h w"]:
    """Soft masks in [0, 1]: mean of the logits of the evidence and of its mirror image."""
    x, y = torch.from_numpy(np.stack(flow)).float(), torch.from_numpy(np.stack(scene)).float()
    logits = network(x, y) + network(*mirrored_evidence(x, y)).flip(3)
    return (logits / 2).sigmoid()[:, 0].numpy()


@torch.inference_mode()
def fit_norms(
    network: MotionNetwork,
    flow: Sequence[Float[np.ndarray, "G 6 h w"]],
    scene: Sequence[Float[np.ndarray, "4 h w"]],
) -> MotionNetwork:
    """A copy whose batch norms have the means and variances of this evidence in place of the collages'.

    A sequence differs from the collages more than its frames from one another (AdaBN, Li et al. 2017). Something must
    move in these frames: otherwise noise is scaled up until it looks like motion.
    """
    fitted = deepcopy(network)
    norms = [module for module in fitted.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, and there is one
        norm.reset_running_stats()
        norm.train()
    fitted(torch.from_numpy(np.stack(flow)).float(), torch.from_numpy(np.stack(scene)).float())
    return fitted.eval()


def load_motion_network(weights: Path) -> MotionNetwork:
    """The network with these weights, on the processor, ready to predict."""
    network = MotionNetwork()
    network.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    return network.eval()


@lru_cache(maxsize=1)
def shipped_motion_network() -> MotionNetwork:
    """The network with the weights of the package."""
    return load_motion_network(MOTION_WEIGHTS)
