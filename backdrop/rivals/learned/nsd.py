"""Rival nsd: neural scene decomposition (Rhodin, Constantin, Katircioglu, Salzmann and Fua, CVPR 2019: "Neural scene
decomposition for multi-person motion capture"), its part that needs a single view.

A network regresses one box; what the box holds goes through a bottleneck, from which a decoder draws it again with a
mask; laid over the known background it shall give the image. What the background explains needs no subject, so box and
mask end on what it does not.

Simplified: one subject, one view, no three-dimensional pose, no depth order; small networks on 96 x 64 pixels; a minute
in place of days; no perceptual loss. The known background is the median of stabilized neighbors, in place of the median
of a camera that stands. Our own, without which the box went to the sky, where drawing is easy, and masks died out:
first the crop alone is drawn, then masks are learned in a box that stays in the middle, and only then the box learns,
slowly; and area costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from backdrop.io.masks import Soft
from backdrop.motion.neighbors import views
from backdrop.networks.spatial import crop, focal_window, paste
from backdrop.rivals.learned.training import TrainingStep, drawn, small_batch, small_size, train_network
from backdrop.rivals.material import Material
from backdrop.rivals.spent import Clock

SCENE_WIDTH, CROP = 96, 48

DECOMPOSITION_CHANNELS, LATENT = (16, 32, 48, 64), 64

SCENE_ITERATIONS, SCENE_BATCH, SCENE_RATE = 1200, 8, 0.001

SMALLEST_SIDE, LARGEST_SIDE, FIRST_SIDE = 0.15, 1.0, 0.7
"""Sides of the box as shares of the image's."""

BOX_PACE = 0.1
"""Of the box against the rest: it must not run where masks cannot follow."""

MASK_COST = 0.003
"""Of a mask of the whole image, in squared color (colors from 0 to 1)."""

DRAWING_FIRST = 200
"""Iterations in which nothing but drawing is learned: gray drawings are worth no mask."""

BOX_HELD = 450
"""Iterations in which the box stays in the middle."""

CROP_WEIGHT = 0.1
"""Of drawing the crop whole from then on."""

KNOWN_BY = 12
"""Frames, spread over the sequence, whose median is the known background."""


def stack(inputs: int) -> nn.Sequential:
    """Convolutions, each of which halves its input."""
    layers: list[nn.Module] = []
    for a, b in zip((inputs, *DECOMPOSITION_CHANNELS), DECOMPOSITION_CHANNELS, strict=False):
        layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.GroupNorm(4, b), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def doublings(channels: tuple[int, ...], groups: int) -> list[nn.Module]:
    """Convolutions, each of which doubles its input, as many as there are channels; then colors and a mask."""
    layers: list[nn.Module] = []
    for a, b in zip(channels, (*channels[1:], channels[-1]), strict=True):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, 1, 1), nn.GroupNorm(groups, b), nn.ReLU()]
    return [*layers, nn.Conv2d(channels[-1], 4, 3, 1, 1)]


class Decomposition(nn.Module):
    """Image -> the box of its subject; crop -> its colors and mask.

    Args:
        size: (width, height) of the images; multiples of 16.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        low, deep = CROP // 16, DECOMPOSITION_CHANNELS[-1]
        self.seen, self.read = stack(3), stack(3)
        self.box = nn.Linear(deep * (size[0] // 16) * (size[1] // 16), 4)
        nn.init.zeros_(self.box.weight)
        nn.init.zeros_(self.box.bias)
        share = (FIRST_SIDE - SMALLEST_SIDE) / (LARGEST_SIDE - SMALLEST_SIDE)
        self.register_buffer("start", torch.tensor([0.0, 0, 1, 1]) * float(np.log(share / (1 - share))))
        self.latent = nn.Sequential(nn.Linear(deep * low**2, LATENT), nn.Linear(LATENT, deep * low**2), nn.ReLU())
        self.draw = nn.Sequential(nn.Unflatten(1, (deep, low, low)), *doublings(DECOMPOSITION_CHANNELS[::-1], 4))
        self.register_buffer("window", focal_window(CROP), persistent=False)

    def boxes(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 4"]:
        """As in `networks.spatial`."""
        raw = self.start + BOX_PACE * self.box(self.seen(image - 0.5).flatten(1))
        side = 2 * (SMALLEST_SIDE + (LARGEST_SIDE - SMALLEST_SIDE) * raw[:, 2:].sigmoid())
        return torch.cat([raw[:, :2].tanh(), side], dim=1)

    def forward(
        self, image: Float[Tensor, "B 3 H W"], learn_box: bool = True
    ) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"], Tensor]:
        """The subject drawn again, zero outside its mask; the mask; how far off the crop is drawn, mean square."""
        box = self.boxes(image) if learn_box else self.boxes(image).detach()
        inside = crop(image, box, CROP)
        drawn_again = self.draw(self.latent(self.read(inside - 0.5).flatten(1)))
        colors, mask = drawn_again[:, :3].sigmoid(), drawn_again[:, 3:].sigmoid() * self.window
        both = paste(torch.cat([colors * mask, mask], dim=1), box, image.shape[2:])  # type: ignore[arg-type]
        return both[:, :3], both[:, 3:], (colors - inside.detach()).square().mean()


def nsd(material: Material) -> Iterator[Soft]:
    """Soft masks of the decoder, laid into the image."""
    size = small_size(material, SCENE_WIDTH)
    images = small_batch(map(material.image, range(len(material))), size)
    grounds = small_batch(known_backgrounds(material), size)
    torch.manual_seed(material.settings.params.seed)
    clock, network = Clock(material.settings.scratch), Decomposition(size)
    step = redrawing(images, grounds)
    train_network(material, network, step, name="nsd", total=SCENE_ITERATIONS, rate=SCENE_RATE, clock=clock)
    for image in images:
        with torch.inference_mode():
            soft = network(image[None])[1][0, 0].numpy()
        yield material.enlarged(soft)


def known_backgrounds(material: Material) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The median of the stabilized neighbors of each frame."""
    found, spacing = [], max(1, len(material) // KNOWN_BY)
    for t in range(len(material)):
        image = material.image(t)
        window = views(material.stabilized, t, len(material), spacing, parallax=False)
        rows = [np.where(view.inside[..., None], view.image, image) for view in window]
        found.append(np.median([image, *rows], axis=0).astype(np.uint8))
    return found


def redrawing(images: Float[Tensor, "N 3 h w"], grounds: Float[Tensor, "N 3 h w"]) -> TrainingStep:
    """A step of drawing frames again over their known backgrounds."""

    def step(iteration: int, network: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = drawn(generator, len(images), SCENE_BATCH)
        subject, mask, misfit = network(images[chosen], iteration >= BOX_HELD)
        if iteration < DRAWING_FIRST:
            return misfit
        whole = subject + (1 - mask) * grounds[chosen]
        return (whole - images[chosen]).square().mean() + MASK_COST * mask.mean() + CROP_WEIGHT * misfit

    return step
