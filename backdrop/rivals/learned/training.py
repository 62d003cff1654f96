"""The training of a rival's network on one sequence, with the library's loop and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from backdrop.learn.checkpoints import Checkpoints
from backdrop.learn.fabric import make_fabric
from backdrop.learn.learner import Learner, cosine, generator_at
from backdrop.learn.source_files import run_key
from backdrop.rivals.material import Material
from backdrop.rivals.spent import Clock

SAVED_EVERY = 50

TrainingStep = Callable[[int, nn.Module, torch.Generator], Tensor]
"""(iteration, the network to call, random numbers of the iteration) -> the loss."""


def train_network(
    material: Material,
    network: nn.Module,
    step: TrainingStep,
    *,
    name: str,
    total: int,
    rate: float,
    clock: Clock,
    momentum: float = 0.9,
) -> nn.Module:
    """Train to the end, from the last checkpoint if there is one; the network, ready to predict.

    Args:
        name: of the training, among those of this rival.
        total: iterations. rate: of the first one; it falls along half a cosine.
        momentum: AdamW's first; networks that are set against each other want less.

    Raises:
        BackdropError: a loss or a gradient is not finite.
    """
    params = material.settings.params
    fabric = make_fabric(params.compute)
    betas = (momentum, 0.999)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=betas, weight_decay=1e-4)
    learner = Learner(fabric, network, optimizer)
    key = run_key("rivals", [name, total, rate, momentum, params.seed, params.student.size, params.stabilize])
    checkpoints = Checkpoints(material.settings.scratch, f"{name}-{key}")
    state: dict[str, Any] | None = checkpoints.load()
    start = 0
    if state is not None:
        learner.restore(state)
        start = state["iteration"]
        clock.took_up(state["seconds"])
    network.train()
    for iteration in range(start, total):
        generator = generator_at(params.seed, iteration)
        loss = step(iteration, learner.model, generator)
        rates = [rate * cosine(iteration, total, True)]
        learner.learn(iteration, {"loss": loss}, loss, rates, lambda: name)
        if (iteration + 1) % SAVED_EVERY == 0 or iteration + 1 == total:
            checkpoints.save(learner.state() | {"iteration": iteration + 1, "seconds": clock.now()})
    return network.eval()


def drawn(generator: torch.Generator, count: int, batch: int) -> list[int]:
    """The numbers of a batch's frames."""
    return torch.randint(count, (batch,), generator=generator).tolist()


def small_size(material: Material, width: int) -> tuple[int, int]:
    """(width, height) of a network's images: the shape of the frames, the height a multiple of 16."""
    return width, 16 * max(1, round(width * material.size[1] / material.size[0] / 16))


def small_batch(images: Iterable[np.ndarray], size: tuple[int, int]) -> Float[Tensor, "B 3 H W"]:
    """RGB images of uint8, made smaller, as a batch in [0, 1]."""
    return as_batch([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])


def as_batch(images: list[Any]) -> Float[Tensor, "B 3 H W"]:
    """RGB images of uint8 as a batch in [0, 1]."""
    return torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2).float() / 255
