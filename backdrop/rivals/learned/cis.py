"""Rivals cis and cis_crf: contextual information separation, Unsup-Mov-Obj (Yang, Loquercio, Scaramuzza and Soatto,
CVPR 2019: "Unsupervised moving object detection via contextual information separation").

A mask parts the flow in two; an inpainter, which sees the image, guesses the flow of either part from that of the
other. It learns to guess well. The mask network learns masks with which it guesses badly, either way: what a thing does
that moves by itself tells nothing of the rest, nor the rest of it. Errors count in shares of those that the inpainter
makes from the image alone. The side that holds less of the image's border is the subject.

Two choices of the original by ground truth are left out: the checkpoint that is best on annotated frames (here the last
one counts), and, for its benchmark, the component of each mask that overlaps most with the truth (here the whole mask
counts). `cis` is without a CRF, `cis_crf` has ours. Simplified: one sequence and a minute in place of data sets and
days; small U-Nets on 128 x 80 pixels, of which the inpainter's adds to the mean of the flow that it is shown; DIS flow,
stabilized, over which each iteration lays a smooth random camera motion, the subject's own motion turned and scaled at
random, so that one sequence does for many (the mask network sees it without the camera's); in training the mask is
drawn, 0 or 1, from the soft one; four turns of the flow are averaged (the original: several shifts in time and crops).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backdrop.crf.dense import refine
from backdrop.io.masks import Soft
from backdrop.networks.student import FoldedUNet
from backdrop.rivals.learned.training import TrainingStep, as_batch, drawn, train_network
from backdrop.rivals.material import Material
from backdrop.rivals.scores import sequence_otsu
from backdrop.rivals.spent import Clock

CIS_WIDTH = 128
"""Of the networks' images, pixels."""

FOLDED = 16
"""Both sides are multiples of it: two for the folded pixels, and three halvings."""

MASK_CHANNELS, INPAINTER_CHANNELS = (16, 24, 32, 48), (16, 24, 48, 64)

WARM_UP, ROUNDS, CIS_BATCH, CIS_RATE = 30, 150, 6, 0.005
"""Iterations of the inpainter alone, on rectangles; then iterations of each network, by turns."""

LEAST_ERROR = 0.01
"""Added to the error from the image alone, mean over the image, in flow's unit: else a mask of next to nothing could
have the best of ratios (the original's epsilon)."""

FIRST_LOGIT = -1.0
"""Of the mask: most of the image begins outside, so that the two sides are not alike."""

NOISE_CELL = 8
"""Pixels at which the noise of drawn masks is independent."""

BORDER_SHARE = 0.5

CAMERA = 0.7
"""Largest random camera motion, in shares of the subject's."""


class CisBatch(NamedTuple):
    """Images, normalized; the flow that the mask network sees, and the one to be guessed; and rectangles, 1 inside."""

    image: Float[Tensor, "B 3 h w"]
    flow: Float[Tensor, "B 2 h w"]
    moved: Float[Tensor, "B 2 h w"]
    rectangle: Float[Tensor, "B 1 h w"]
    noise: Float[Tensor, "B 1 h w"]


class Separation(nn.Module):
    """The two networks, and the loss of either."""

    def __init__(self) -> None:
        super().__init__()
        self.masker = FoldedUNet(5, MASK_CHANNELS, 1)
        self.inpainter = FoldedUNet(6, INPAINTER_CHANNELS, 2)

    def forward(self, batch: CisBatch, turn: str) -> Tensor:
        """The loss of a turn: "warm_up" or "inpainter", of the inpainter; "masker", of the mask network."""
        self.masker.requires_grad_(turn == "masker")
        self.inpainter.requires_grad_(turn != "masker")
        mask = batch.rectangle if turn == "warm_up" else self.drawn_mask(batch)
        if turn != "masker":
            mask = mask.detach()
        hidden = torch.cat([mask, 1 - mask, torch.ones_like(mask)])
        image, moved = (torch.cat([part] * 3) for part in (batch.image, batch.moved))
        guess = self.guess(image, moved, 1 - hidden)
        errors = torch.sqrt(torch.square(guess - moved).sum(dim=1, keepdim=True) + 1e-6)
        inside, outside, blind = errors.split(len(mask))
        if turn != "masker":
            return (inside * mask + outside * (1 - mask) + blind).mean()
        return 2 - (context_share(inside, blind, mask) + context_share(outside, blind, 1 - mask)).mean()

    def guess(
        self, image: Float[Tensor, "B 3 h w"], moved: Float[Tensor, "B 2 h w"], shown: Float[Tensor, "B 1 h w"]
    ) -> Float[Tensor, "B 2 h w"]:
        """The flow everywhere, from that where `shown` is 1: its mean, and what the network makes of the rest."""
        weight = shown.mean(dim=(2, 3), keepdim=True) + 1e-3
        mean = (moved * shown).mean(dim=(2, 3), keepdim=True) / weight
        return mean + self.inpainter(torch.cat([image, (moved - mean) * shown, shown], dim=1))

    def drawn_mask(self, batch: CisBatch) -> Float[Tensor, "B 1 h w"]:
        """A mask of 0 and 1, drawn with noise that is alike nearby; its gradient is that of the soft one.

        A soft mask hides nothing: flow that is merely weaker can be read. And what a network has never hidden it cannot
        learn to hide: so it draws.
        """
        soft = (self.logits(batch.image, batch.flow) + batch.noise).sigmoid()
        return (soft > 0.5).float() + soft - soft.detach()

    def logits(self, image: Float[Tensor, "B 3 h w"], flow: Float[Tensor, "B 2 h w"]) -> Float[Tensor, "B 1 h w"]:
        """Of the mask; which side is the subject is open."""
        return self.masker(torch.cat([image, flow], dim=1)) + FIRST_LOGIT


def context_share(
    guessed: Float[Tensor, "B 1 h w"], blind: Float[Tensor, "B 1 h w"], part: Float[Tensor, "B 1 h w"]
) -> Float[Tensor, " B"]:
    """The error in a part guessed from the other, in shares of that from the image alone: near 1, the other part tells
    nothing of this one."""
    return (guessed * part).mean(dim=(1, 2, 3)) / ((blind * part).mean(dim=(1, 2, 3)) + LEAST_ERROR)


def cis(material: Material) -> Iterator[Soft]:
    """Soft masks of the mask network, the mean over four turns of the flow."""
    images, flows = inputs_of(material)
    torch.manual_seed(material.settings.params.seed)
    clock, network = Clock(material.settings.scratch), Separation()
    total = WARM_UP + 2 * ROUNDS
    step = separating(images, flows)
    train_network(material, network, step, name="cis", total=total, rate=CIS_RATE, clock=clock)
    for image, flow in zip(images, flows, strict=True):
        soft = subject_of(network, image, flow)
        yield material.enlarged(soft)


def cis_crf(material: Material) -> Iterator[Soft]:
    """Masks of 0 and 1: those of `cis` at Otsu's threshold over the sequence, through the dense CRF."""
    softs = list(cis(material))
    level = sequence_otsu(softs)
    for t, soft in enumerate(softs):
        yield refine(material.image(t), soft, level, material.settings.params.crf).astype(np.float32)


def inputs_of(material: Material) -> tuple[Float[Tensor, "N 3 h w"], Float[Tensor, "N 2 h w"]]:
    """All frames in [-1, 1], and their stabilized flow in shares of what is fast there, at the networks' size."""
    height = max(FOLDED, FOLDED * round(CIS_WIDTH * material.size[1] / material.size[0] / FOLDED))
    size = (CIS_WIDTH, height)
    images = [cv2.resize(material.image(t), size, interpolation=cv2.INTER_AREA) for t in range(len(material))]
    flows = [cv2.resize(material.flow(t).flow, size, interpolation=cv2.INTER_AREA) for t in range(len(material))]
    fast = np.array([np.percentile(np.linalg.norm(flow, axis=2), 99) for flow in flows])
    # A frame in which all rests is not blown up until its noise looks like motion.
    scale = np.maximum(fast, max(0.3 * float(np.median(fast)), 0.1))
    stacked = np.stack(flows) / scale[:, None, None, None]
    longest = np.maximum(np.linalg.norm(stacked, axis=3, keepdims=True) / 2, 1)
    return as_batch(images) * 2 - 1, torch.from_numpy(stacked / longest).float().permute(0, 3, 1, 2)


def separating(images: Float[Tensor, "N 3 h w"], flows: Float[Tensor, "N 2 h w"]) -> TrainingStep:
    """A step of one of the two networks, on frames drawn with random changes."""

    def step(iteration: int, network: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = drawn(generator, len(images), CIS_BATCH)
        batch = changed_at_random(images[chosen], flows[chosen], generator)
        turn = "warm_up" if iteration < WARM_UP else ("inpainter", "masker")[(iteration - WARM_UP) % 2]
        return network(batch, turn)

    return step


def changed_at_random(
    image: Float[Tensor, "B 3 h w"], flow: Float[Tensor, "B 2 h w"], generator: torch.Generator
) -> CisBatch:
    """Mirrored or not; the subject's motion turned and scaled, and a camera motion laid over it.

    The image alone then tells neither motion, however often the frame is seen.
    """
    count, _, height, width = flow.shape
    numbers = torch.rand((count, 13), generator=generator)
    mirrored = (numbers[:, 0] < 0.5).reshape(-1, 1, 1, 1)
    image = torch.where(mirrored, image.flip(3), image)
    flow = torch.where(mirrored, flow.flip(3), flow)
    flow = turned(flow, numbers[:, 1] * 2 * math.pi) * (0.5 + numbers[:, 2]).reshape(-1, 1, 1, 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    affine = (numbers[:, 3:9].reshape(-1, 2, 3) * 2 - 1) * CAMERA * torch.tensor([1, 0.15, 0.15])
    camera = torch.einsum("bck,khw->bchw", affine, torch.stack([torch.ones_like(x), x, y]))
    place, half = numbers[:, 9:11] * 2 - 1, 0.15 + 0.5 * numbers[:, 11:13]
    near = [(grid - place[:, k, None, None]).abs() < half[:, k, None, None] for k, grid in enumerate((x, y))]
    coarse = torch.rand((count, 1, height // NOISE_CELL, width // NOISE_CELL), generator=generator)
    noise = F.interpolate(torch.logit(coarse, 1e-3), size=(height, width), mode="bilinear")
    return CisBatch(image, flow, flow + camera, (near[0] & near[1]).float()[:, None], noise)


def turned(flow: Float[Tensor, "B 2 h w"], angle: Float[Tensor, " B"]) -> Float[Tensor, "B 2 h w"]:
    """Flow vectors turned by an angle each, radians; each stays in its place."""
    c, s = (part.reshape(-1, 1, 1) for part in (torch.cos(angle), torch.sin(angle)))
    return torch.stack([c * flow[:, 0] - s * flow[:, 1], s * flow[:, 0] + c * flow[:, 1]], dim=1)


@torch.inference_mode()
def subject_of(network: Separation, image: Float[Tensor, "3 h w"], flow: Float[Tensor, "2 h w"]) -> Soft:
    """The soft mask of a frame's subject: of the side that holds less of the image's border."""
    angles = torch.arange(4) * (math.pi / 2)
    seen = image.expand(4, -1, -1, -1), turned(flow.expand(4, -1, -1, -1), angles)
    soft = network.logits(*seen).sigmoid().mean(dim=0)[0]
    border = torch.cat([soft[:2].flatten(), soft[-2:].flatten(), soft[:, :2].flatten(), soft[:, -2:].flatten()])
    return (1 - soft if border.mean() > BORDER_SHARE else soft).numpy()
