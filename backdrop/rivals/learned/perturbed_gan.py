"""Rival perturbed_gan: perturbed generative models (Bielski and Favaro, NeurIPS 2019: "Emergence of object segmentation
in perturbed generative models").

A generator makes colors and a mask from noise, and lays them, shifted at random, over a ground. A judge tells such
pictures from frames. A picture passes only if what moves as one is masked as one: a mask that cuts the subject, or
takes ground along, shows when it is shifted. So that the mask is neither empty nor gray, small areas and undecided
pixels cost. A small student then learns from what the generator makes, pictures with their masks, and masks the frames.

Simplified: the ground is a median of stabilized neighbors. The original generates it as well; in three CPU minutes such
a ground drew the subject, too, and masks died out. One sequence in place of a data set, small networks on pictures 48
pixels wide, minutes in place of days. Our own, against a judge that knows the frames by heart: it sees them shifted and
in other light.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backdrop.io.masks import Soft
from backdrop.networks.student import StudentNetwork
from backdrop.rivals.learned.copy_paste import empty_views
from backdrop.rivals.learned.nsd import doublings
from backdrop.rivals.learned.training import TrainingStep, drawn, small_batch, small_size, train_network
from backdrop.rivals.material import Material
from backdrop.rivals.spent import Clock

PICTURE_WIDTH, NOISE_SIZE = 48, 32

LAYER_CHANNELS, TELLER_CHANNELS, LEARNER_CHANNELS = (96, 64, 48, 32), (32, 64, 96, 96), (16, 24, 32)

PERTURBED_ITERATIONS, PERTURBED_BATCH, PERTURBED_RATE, PERTURBED_MOMENTUM = 3000, 16, 0.001, 0.0
"""Judge and generator take turns."""

LEARNER_ITERATIONS, LEARNER_RATE = 300, 0.003

LARGEST_SHIFT = (0.6, 0.1)
"""Of what is generated, to either side and up or down, in half images."""

LEAST_MASK, LEAST_MASK_WEIGHT = 0.04, 10.0
"""Share of the image below which a mask costs. The original sets it by data set, too."""

UNDECIDED_WEIGHT, UNDECIDED_FULL = 1.0, 1000
"""Of pixels that are neither in nor out; it grows until that iteration."""

SMOOTH_WEIGHT, SMOOTH_EVERY = 0.4, 16
"""R1 penalty (Mescheder et al., 2018): the judge's squared gradient at frames, in some of its turns."""

SEEN_SHIFT, SEEN_LIGHT = 0.2, 0.2
"""Largest change of what the judge sees, in half images and in half the range of colors."""


class Numbers(NamedTuple):
    """What is drawn for a batch: noise; in [-1, 1] the shifts of layers, and shifts and light of what is judged."""

    noise: Float[Tensor, "B Z"]
    shift: Float[Tensor, "B 2"]
    seen: Float[Tensor, "B 6"]


def draw_numbers(generator: torch.Generator) -> Numbers:
    """For one batch."""
    uniform = torch.rand((PERTURBED_BATCH, 8), generator=generator) * 2 - 1
    return Numbers(torch.randn((PERTURBED_BATCH, NOISE_SIZE), generator=generator), uniform[:, :2], uniform[:, 2:])


class PerturbedGan(nn.Module):
    """Generator and judge, and the loss of either.

    Args:
        size: (width, height) of the pictures; multiples of 16.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        low = (size[1] // 16, size[0] // 16)
        cells = low[0] * low[1]
        self.layer = nn.Sequential(
            nn.Linear(NOISE_SIZE, LAYER_CHANNELS[0] * cells),
            nn.ReLU(),
            nn.Unflatten(1, (LAYER_CHANNELS[0], *low)),
            *doublings(LAYER_CHANNELS, 8),
        )
        layers: list[nn.Module] = []
        for a, b in zip((3, *TELLER_CHANNELS), TELLER_CHANNELS, strict=False):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.judge = nn.Sequential(*layers, nn.Flatten(), nn.Linear(TELLER_CHANNELS[-1] * cells, 1))

    def forward(
        self, frames: Float[Tensor, "B 3 h w"], grounds: Float[Tensor, "B 3 h w"], numbers: Numbers, iteration: int
    ) -> Tensor:
        """The loss of the judge in even iterations, of the generator in the others."""
        self.layer.requires_grad_(iteration % 2 == 1)
        self.judge.requires_grad_(iteration % 2 == 0)
        picture, mask = self.generate(grounds, numbers)
        fake = self.judge(as_judged(picture, numbers.seen[:, :3]))
        if iteration % 2:
            small = F.relu(LEAST_MASK - mask.mean(dim=(1, 2, 3))).mean()
            undecided = torch.minimum(mask, 1 - mask).mean() * min(1, iteration / UNDECIDED_FULL)
            return F.softplus(-fake).mean() + LEAST_MASK_WEIGHT * small + UNDECIDED_WEIGHT * undecided
        real = as_judged(frames, numbers.seen[:, 3:]).requires_grad_()
        verdict = self.judge(real)
        loss = F.softplus(-verdict).mean() + F.softplus(fake).mean()
        if iteration % SMOOTH_EVERY == 0:
            [slope] = torch.autograd.grad(verdict.float().sum(), real, create_graph=True)
            loss = loss + SMOOTH_WEIGHT * slope.float().square().sum(dim=(1, 2, 3)).mean()
        return loss

    def generate(
        self, grounds: Float[Tensor, "B 3 h w"], numbers: Numbers
    ) -> tuple[Float[Tensor, "B 3 h w"], Float[Tensor, "B 1 h w"]]:
        """Pictures in [-1, 1] with what was generated, shifted, over the grounds; its masks, 1 inside."""
        raw = self.layer(numbers.noise)
        mask = raw[:, 3:].sigmoid()
        whole = torch.cat([raw[:, :3].tanh() * mask, mask], dim=1)
        placed = moved_by(whole, numbers.shift * numbers.shift.new_tensor(LARGEST_SHIFT), "zeros")
        return placed[:, :3] + (1 - placed[:, 3:]) * grounds, placed[:, 3:]


def moved_by(image: Float[Tensor, "B C h w"], by: Float[Tensor, "B 2"], outside: str) -> Float[Tensor, "B C h w"]:
    """Images moved by (x, y) half images; `outside` as in `grid_sample`."""
    same = torch.eye(2).to(by).expand(len(by), 2, 2)
    grid = F.affine_grid(torch.cat([same, by[..., None]], dim=2), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid.to(image), padding_mode=outside, align_corners=False)


def as_judged(image: Float[Tensor, "B 3 h w"], numbers: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 h w"]:
    """As the judge sees it: shifted, and in other light."""
    return moved_by(image + SEEN_LIGHT * numbers[:, 2, None, None, None], SEEN_SHIFT * numbers[:, :2], "reflection")


def perturbed_gan(material: Material) -> Iterator[Soft]:
    """Soft masks of the student."""
    size = small_size(material, PICTURE_WIDTH)
    frames = small_batch(map(material.image, range(len(material))), size) * 2 - 1
    grounds = small_batch(empty_views(material), size) * 2 - 1
    torch.manual_seed(material.settings.params.seed)
    clock, network = Clock(material.settings.scratch), PerturbedGan(size)
    train_network(
        material,
        network,
        perturbing(frames, grounds),
        name="perturbed_gan",
        total=PERTURBED_ITERATIONS,
        rate=PERTURBED_RATE,
        clock=clock,
        momentum=PERTURBED_MOMENTUM,
    )
    student = StudentNetwork(LEARNER_CHANNELS)
    train_network(
        material,
        student,
        imitating(network, grounds),
        name="perturbed_gan_student",
        total=LEARNER_ITERATIONS,
        rate=LEARNER_RATE,
        clock=clock,
    )
    for image in frames:
        with torch.inference_mode():
            soft = student(image[None] / 2 + 0.5)[0, 0].sigmoid().numpy()
        yield material.enlarged(soft)


def perturbing(frames: Float[Tensor, "N 3 h w"], grounds: Float[Tensor, "M 3 h w"]) -> TrainingStep:
    """A step of one of the two networks."""

    def step(iteration: int, network: nn.Module, generator: torch.Generator) -> Tensor:
        real, ground = (among[drawn(generator, len(among), PERTURBED_BATCH)] for among in (frames, grounds))
        return network(real, ground, draw_numbers(generator), iteration)

    return step


def imitating(maker: PerturbedGan, grounds: Float[Tensor, "M 3 h w"]) -> TrainingStep:
    """A step of the student, on pictures and masks of the generator."""

    def step(_: int, network: nn.Module, generator: torch.Generator) -> Tensor:
        ground, numbers = grounds[drawn(generator, len(grounds), PERTURBED_BATCH)], draw_numbers(generator)
        with torch.no_grad():
            picture, mask = maker.generate(ground, numbers)
        light = SEEN_LIGHT * numbers.seen[:, 2, None, None, None]
        logits = network((picture + light) / 2 + 0.5)
        return F.binary_cross_entropy_with_logits(logits, (mask > 0.5).float())

    return step
