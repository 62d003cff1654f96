"""Rival copy_paste: the copy-pasting GAN (Arandjelovic and Zisserman, 2019: "Object discovery with a copy-pasting
GAN").

A generator masks an image; what it masks is pasted onto an image without subject. A judge tells such pictures from real
ones. A picture passes if the subject is in it, whole and without what was around it. Against shortcuts, as in the
original: the mask is zero at the image's border (or all of the image would be copied) and a little blurred (or the
judge would look for its steps); random shapes are pasted as well, and are fakes; and the judge also has to say what was
pasted. Our own ones: light and colors of all images vary, so that ground copied along shows, and area costs.

Simplified: one sequence in place of a data set; images without subject are medians of stabilized neighbors, cropped at
random so that they do not lie as in the frame (the original has a collection of them); small networks on 96 x 64
pixels; a minute in place of days. Where the subject stays in its place medians are not empty, and it fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backdrop.io.masks import Soft
from backdrop.motion.neighbors import views
from backdrop.networks.student import StudentNetwork
from backdrop.rivals.learned.training import TrainingStep, drawn, small_batch, small_size, train_network
from backdrop.rivals.material import Material
from backdrop.rivals.spent import Clock

PASTE_WIDTH = 96

PASTE_CHANNELS, JUDGE_CHANNELS = (16, 24, 32, 48), (24, 48, 64, 64)

PASTE_ITERATIONS, PASTE_BATCH, PASTE_RATE, PASTE_MOMENTUM = 400, 8, 0.002, 0.5

JUDGE_EVERY = 3
"""The judge learns in each third iteration, or it would be too good to learn from; the generator in the others."""

AREA_COST = 6.0
"""Of a mask of the whole image, against the judge's verdict."""

FRAME_BAND = 2
"""Pixels at the border that are never copied."""

EMPTY_VIEWS = 8
"""Images without subject, spread over the sequence."""

LEAST_CROP = 0.75

FIRST_MASK = -3.0
"""Logit at which masks begin: what is copied must be worth it."""

LIGHT = 0.25
"""Largest change of an image's light and of a color's, so that ground copied along shows."""

PASTED_WEIGHT = 1.0
"""Of saying what was pasted, against telling fakes."""


class PasteBatch(NamedTuple):
    """In [-1, 1]: images to copy from and to paste onto, and real ones; random shapes, 1 inside."""

    source: Float[Tensor, "B 3 h w"]
    ground: Float[Tensor, "B 3 h w"]
    real: Float[Tensor, "B 3 h w"]
    shape: Float[Tensor, "B 1 h w"]


class Judge(nn.Module):
    """Image -> logits of being real, at each place of a coarse grid; and of having been pasted there."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip((3, *JUDGE_CHANNELS), JUDGE_CHANNELS, strict=False):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(4, b), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.real, self.pasted = nn.Linear(2 * JUDGE_CHANNELS[-1], 1), nn.Conv2d(JUDGE_CHANNELS[-1], 1, 1)

    def forward(self, image: Float[Tensor, "B 3 h w"]) -> tuple[Float[Tensor, " B"], Float[Tensor, "B 1 a b"]]:
        seen = self.body(image)
        whole = torch.cat([seen.amax(dim=(2, 3)), seen.mean(dim=(2, 3))], dim=1)
        return self.real(whole)[:, 0], self.pasted(seen)


class CopyPaste(nn.Module):
    """The two networks, and the loss of either."""

    def __init__(self) -> None:
        super().__init__()
        self.masker, self.judge = StudentNetwork(PASTE_CHANNELS), Judge()

    def forward(self, batch: PasteBatch, turn: str) -> Tensor:
        """The loss of a turn: "judge" or "masker"."""
        self.masker.requires_grad_(turn == "masker")
        self.judge.requires_grad_(turn == "judge")
        mask = self.mask(batch.source)
        if turn == "masker":
            return F.softplus(-self.judge(pasted(batch, mask))[0]).mean() + AREA_COST * mask.mean()
        fakes = torch.cat([pasted(batch, mask.detach()), pasted(batch, batch.shape)])
        real, none = self.judge(batch.real)
        fake, found = self.judge(fakes)
        true = F.interpolate(torch.cat([mask.detach(), batch.shape]), size=found.shape[2:], mode="area")
        telling = F.softplus(-real).mean() + F.softplus(fake).mean()
        saying = F.binary_cross_entropy_with_logits(found, true) + F.softplus(none).mean()
        return telling + PASTED_WEIGHT * saying

    def mask(self, image: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 1 h w"]:
        """Soft masks, 1 = subject; zero at the border, and a little blurred."""
        soft = F.avg_pool2d((self.masker(image) + FIRST_MASK).sigmoid(), 3, 1, 1, count_include_pad=False)
        return soft * inner(soft)


def inner(like: Tensor) -> Tensor:
    """1 but within `FRAME_BAND` of the border."""
    band = torch.zeros_like(like)
    band[..., FRAME_BAND:-FRAME_BAND, FRAME_BAND:-FRAME_BAND] = 1
    return band


def pasted(batch: PasteBatch, mask: Float[Tensor, "B 1 h w"]) -> Float[Tensor, "B 3 h w"]:
    """What the mask holds of the source on the ground."""
    return mask * batch.source + (1 - mask) * batch.ground


def copy_paste(material: Material) -> Iterator[Soft]:
    """Soft masks of the generator."""
    size = small_size(material, PASTE_WIDTH)
    images = small_batch(map(material.image, range(len(material))), size)
    grounds = small_batch(empty_views(material), size)
    torch.manual_seed(material.settings.params.seed)
    clock, network = Clock(material.settings.scratch), CopyPaste()
    step = pasting(images * 2 - 1, grounds * 2 - 1)
    train_network(
        material,
        network,
        step,
        name="copy_paste",
        total=PASTE_ITERATIONS,
        rate=PASTE_RATE,
        clock=clock,
        momentum=PASTE_MOMENTUM,
    )
    for image in images:
        with torch.inference_mode():
            soft = network.mask(image[None] * 2 - 1)[0, 0].numpy()
        yield material.enlarged(soft)


def empty_views(material: Material) -> list[np.ndarray]:
    """The medians of stabilized neighbors of `EMPTY_VIEWS` frames, RGB uint8: without what moves, where it moves on."""
    found = []
    for t in np.unique(np.linspace(0, len(material) - 1, EMPTY_VIEWS).astype(int)):
        window = views(material.stabilized, int(t), len(material), max(1, len(material) // 12), parallax=False)
        image = material.image(int(t))
        rows = [np.where(view.inside[..., None], view.image, image) for view in window]
        found.append(np.median([image, *rows], axis=0).astype(np.uint8))
    return found


def pasting(images: Float[Tensor, "N 3 h w"], grounds: Float[Tensor, "M 3 h w"]) -> TrainingStep:
    """A step of one of the two networks, on frames drawn with random changes."""

    def step(iteration: int, network: nn.Module, generator: torch.Generator) -> Tensor:
        source, ground, real = (
            cropped(among[drawn(generator, len(among), PASTE_BATCH)], generator) for among in (images, grounds, images)
        )
        batch = PasteBatch(source, ground, real, random_shapes(source.shape, generator))
        return network(batch, "masker" if iteration % JUDGE_EVERY else "judge")

    return step


def cropped(image: Float[Tensor, "B 3 h w"], generator: torch.Generator) -> Float[Tensor, "B 3 h w"]:
    """A random window of each image at the whole size, mirrored or not."""
    numbers = torch.rand((len(image), 4), generator=generator)
    share = LEAST_CROP + (1 - LEAST_CROP) * numbers[:, 0]
    zero = torch.zeros_like(share)
    shifts = (numbers[:, 1:3] * 2 - 1) * (1 - share)[:, None]
    mirror = torch.where(numbers[:, 3] < 0.5, -share, share)
    rows = [torch.stack([mirror, zero, shifts[:, 0]], 1), torch.stack([zero, share, shifts[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(image.shape), align_corners=False)
    window = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    light = (torch.rand((len(image), 4, 1, 1), generator=generator) * 2 - 1) * LIGHT
    return (window * (1 + light[:, :1]) + light[:, 1:]).clamp(-1, 1)


def random_shapes(shape: torch.Size, generator: torch.Generator) -> Float[Tensor, "B 1 h w"]:
    """Blurred noise above a level: blots of any form; none in some images."""
    count, _, height, width = shape
    coarse = torch.rand((count, 1, 4, 6), generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")
    level = 0.55 + 0.5 * torch.rand((count, 1, 1, 1), generator=generator)
    blots = F.avg_pool2d((smooth > level).float(), 3, 1, 1, count_include_pad=False)
    return blots * inner(blots)
