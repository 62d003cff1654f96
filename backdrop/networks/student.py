"""The student: a small U-Net that segments the subject in a single image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from pydantic import BaseModel
from torch import Tensor, nn

from backdrop.config.sections import Count, Fraction, Size
from backdrop.io.masks import Mask, within, within_region
from backdrop.motion.blobs import near_subject
from backdrop.networks.encoder import normalize
from backdrop.networks.model_folders import with_weights

GUIDE_EPSILON = 1e-2
"""Guided filter: variance of colors in [0, 1] below which a window counts as flat. (At 1e-3 and below, OpenCV's filter
loses its way on gray images, whose three channels are one.)"""

GUIDED_PIXELS = 3840 * 2160
"""The guided filter needs some eighty bytes a pixel: larger images are filtered at this size."""


def _block(inner: int, outer: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with batch norm."""
    layers: list[nn.Module] = []
    for source in (inner, outer):
        layers += [nn.Conv2d(source, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """The levels of a U-Net: each halves its input by its largest values, and takes part again on the way up.

    Args:
        inputs: channels that go in.
        channels: of the levels, finest first; so many come out of `levels`.
    """

    def __init__(self, inputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise([inputs, *channels]))
        self.up = nn.ModuleList(_block(fine + coarse, fine) for fine, coarse in pairwise(channels))

    def levels(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        """Sides are multiples of 2 to the number of levels less one."""
        found = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            found.append(x)
        for i in reversed(range(len(self.up))):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.up[i](torch.cat([found[i], x], dim=1))
        return x


class FoldedUNet(UNet):
    """A U-Net on 2 x 2 pixels at a time.

    The first step folds 2 x 2 pixels into channels and the last unfolds them, so that the network sees fine detail
    at the price of half the resolution.

    Args:
        inputs, outputs: channels that go in and come out. channels: of the levels, finest first.
    """

    def __init__(self, inputs: int, channels: Sequence[int], outputs: int) -> None:
        super().__init__(4 * inputs, channels)
        self.fold = nn.PixelUnshuffle(2)
        self.head = nn.Sequential(nn.Conv2d(channels[0], 4 * outputs, 1), nn.PixelShuffle(2))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        """Sides are multiples of 2 to the number of levels."""
        return self.head(self.levels(self.fold(x)))


class StudentNetwork(FoldedUNet):
    """Image -> logits of the foreground.

    Args:
        channels: of the levels, finest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(3, channels, 1)
        self.channels = list(channels)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Args: normalized image of any size; its border is repeated where the size does not divide evenly."""
        height, width = image.shape[2:]
        multiple = 2 ** len(self.channels)
        x = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        return super().forward(x)[:, :, :height, :width].float()


class _Config(BaseModel):
    """The key `student` of a model folder's config.json; older ones lack the last two."""

    channels: list[Count]
    size: Size
    guide: Fraction
    subjects: Count = 1
    threshold: Fraction | None = None


class Student:
    """A student network ready to predict.

    Args:
        network: trained.
        size: (W, H), the resolution it was trained at.
        guide: radius of the guided filter that fits the mask to the image's edges, as a share of the
            image's diagonal; 0: none.
        subjects: at most so many components make the mask.
        threshold: the level at which its masks agree best with the pseudo-masks that it learned from, and at which
            components are told apart; None: unknown, one half.
    """

    def __init__(
        self,
        network: StudentNetwork,
        size: tuple[int, int],
        guide: float,
        device: torch.device,
        *,
        subjects: int = 1,
        threshold: float | None = None,
    ) -> None:
        self.network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.size, self.guide, self.device = size, guide, device
        self.subjects, self.threshold = subjects, threshold

    @classmethod
    def build(cls, config: dict[str, Any], state: dict[str, Tensor], device: torch.device) -> Student:
        """From the key `student` of a model folder's config.json, and its weights (without the prefix)."""
        known = _Config.model_validate(config)
        network = with_weights(lambda: StudentNetwork(known.channels), state)
        return cls(network, known.size, known.guide, device, subjects=known.subjects, threshold=known.threshold)

    @torch.inference_mode()
    def soft(
        self, images: Sequence[np.ndarray], subjects: int | None = None, region: Mask | None = None
    ) -> list[Float32[np.ndarray, "h w"]]:
        """Soft masks at the working size, float32 in [0, 1], 1 = foreground: as many components as there may be
        subjects.

        Args:
            images: (H, W, 3) uint8 RGB each, of any sizes. Each is segmented by itself.
            subjects: how many; None: those that the student was trained for.
            region: of interest, of any size; outside is no subject, however much looks like one. None: the whole image.
        """
        level = 0.5 if self.threshold is None else self.threshold
        count = self.subjects if subjects is None else subjects
        return [near_subject(within_region(soft, region), count, level) for soft in self.raw(images)]

    @torch.inference_mode()
    def raw(self, images: Sequence[np.ndarray]) -> list[Float32[np.ndarray, "h w"]]:
        """The network's soft masks as they are, of any number of components."""
        small = [cv2.resize(image, self.size, interpolation=cv2.INTER_AREA) for image in images]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(self.device)
        x = normalize(pixels.float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(x)
        return list(logits.sigmoid()[:, 0].cpu().numpy())

    def activation(self, image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "h w"]:
        """Where the image looks most like the subject, in [0, 1], at the working size; also where the mask is empty.

        Grad-CAM (Selvaraju et al., ICCV 2017) of the last but one coarse level on the way up: the coarsest levels
        themselves do not say where (docs/trials.md). The score of the class is the smooth largest logit of the mask
        (log-sum-exp).
        """
        small = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        pixels = torch.from_numpy(small).permute(2, 0, 1)[None].to(self.device)
        found: list[Tensor] = []
        level = self.network.up[max(0, len(self.network.up) - 2)]
        hook = level.register_forward_hook(lambda _, __, out: found.append(out))
        with torch.enable_grad():
            # a compiled network would pass over the hook, and calling `forward` passes over the compiled one
            logits = self.network.forward(normalize(pixels.float() / 255).requires_grad_())
            (slope,) = torch.autograd.grad(logits.flatten().logsumexp(dim=0), found[0])
        hook.remove()
        # Grad-CAM, Eq. 1 and 2: channels weigh by the mean of their gradients
        map_ = (slope.mean(dim=(2, 3), keepdim=True) * found[0]).sum(dim=1, keepdim=True).relu().detach()
        fine = F.interpolate(map_, size=small.shape[:2], mode="bilinear", align_corners=False)[0, 0]
        return (fine / fine.max().clamp_min(1e-12)).cpu().numpy()

    def masks(self, images: Sequence[np.ndarray], subjects: int | None = None) -> list[Float32[np.ndarray, "H W"]]:
        """Soft masks (see `soft`) at each image's size, their edges drawn to the image's.

        The working mask is enlarged and then passed through a guided filter (He, Sun and Tang 2010) whose guide is
        the image itself: a mask's edge moves to the color edge within its reach.
        """
        found = self.soft(images, subjects)
        return [sharpen(image, soft, self.guide) for image, soft in zip(images, found, strict=True)]


def sharpen(
    image: UInt8[np.ndarray, "H W 3"], soft: Float32[np.ndarray, "h w"], guide: float
) -> Float32[np.ndarray, "H W"]:
    """A soft mask of any size at the image's size, guided by the image (see `Student.masks`)."""
    height, width = image.shape[:2]
    if height * width > GUIDED_PIXELS:
        size = within((width, height), GUIDED_PIXELS)
        fine = sharpen(cv2.resize(image, size, interpolation=cv2.INTER_AREA), soft, guide)  # type: ignore[arg-type]
        return cv2.resize(fine, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]
    full = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    radius = round(guide * float(np.hypot(height, width)))
    if radius < 1:
        return full
    filtered = cv2.ximgproc.guidedFilter(image.astype(np.float32) / 255, full, radius, GUIDE_EPSILON)  # type: ignore[attr-defined]
    return filtered.clip(0, 1)
