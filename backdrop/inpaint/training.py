"""Training of the inpainters on random holes, before joint training (002 section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from backdrop.inpaint.parameters import InpainterParams
from backdrop.learn import ranks
from backdrop.learn.checkpoints import Checkpoints, run_key
from backdrop.learn.curves import log_row, open_live, progress
from backdrop.learn.fabric import loader_workers, make_fabric
from backdrop.learn.frames import Batch, TrainingFrames, frame_names, to_images
from backdrop.learn.learner import Learner, cosine, generator_at
from backdrop.networks.encoder import Features, feature_distance, normalize, square_distance
from backdrop.networks.folders import save_network
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.spatial import hole
from backdrop.run.compute import ComputeParams

CHECKPOINT_EVERY = 500
"""Iterations between two resume checkpoints."""

COLOR_FRAMES = 64
"""Frames that the color an inpainter starts from is averaged over."""


def mean_color(data: TrainingFrames, kind: str) -> Float[Tensor, " 3"]:
    """The mean normalized color of up to `COLOR_FRAMES` of the images that an inpainter is to learn."""
    chosen = np.linspace(0, len(data) - 1, min(COLOR_FRAMES, len(data))).round().astype(int)
    rows = [Batch(*data[int(index)]) for index in chosen]
    pictures = [row.flow if kind == "flow" else row.image for row in rows if kind == "rgb" or row.flow_valid]
    if not pictures:
        return torch.zeros(3)
    return normalize(torch.as_tensor(np.stack(pictures)).float() / 255).mean(dim=(0, 2, 3))


def train_inpainter(
    kind: str,
    frames_dir: Path,
    flow_dir: Path | None,
    out_dir: Path,
    log_dir: Path,
    params: InpainterParams,
    size: tuple[int, int],
    weights: str,
    seed: int,
    compute: ComputeParams,
    checkpoint_dir: Path,
) -> None:
    """Train the inpainter on random holes and write it to `out_dir` (002 section 3.3: L2 plus perceptual).

    Args:
        kind: "rgb" trains on frames, "flow" on flow images (valid ones only).
        size: (W, H) of the training resolution. weights: of phi, see `encoder.resnet`.
    """
    fabric = make_fabric(compute)
    fabric.seed_everything(seed, verbose=False)
    data = TrainingFrames(frames_dir, flow_dir if kind == "flow" else None, size)
    network = Inpainter(params.channels)
    network.start_color(mean_color(data, kind))
    fabric.launch()
    lesson = InpaintingStep(fabric, network, Features(weights) if params.perceptual else None, params, compute.compile)
    key = run_key(f"inpaint-{kind}", [params, seed, size, weights, data.fingerprint()])
    checkpoints = Checkpoints(checkpoint_dir, key)
    state = checkpoints.load()
    start, history = 0, []
    if state is not None:
        network.load_state_dict(state["network"])
        lesson.learner.optimizer.load_state_dict(state["optimizer"])
        start, history = state["iteration"], state["history"]
    every = max(1, params.iterations // 100)
    bar = progress(params.iterations, start, f"inpainter {kind}")
    with bar, open_live(log_dir, history) as live:
        batches = data.batches(seed, start, params.iterations, params.batch, loader_workers(fabric))
        for iteration, batch in enumerate(batches, start):
            image = to_images(fabric, batch.flow if kind == "flow" else batch.image)
            known = batch.flow_valid.to(image, non_blocking=True) if kind == "flow" else None
            boxes = random_holes(len(image), params.hole, params.holes, generator_at(seed, iteration))
            names = partial(frame_names, data, batch)
            terms = lesson.step(iteration, image, boxes.to(image, non_blocking=True), known, names)
            bar.update()
            if iteration % every == 0 or iteration + 1 == params.iterations:
                row = {"iteration": iteration} | {key: float(value.detach()) for key, value in terms.items()}
                log_row(live, row, history)
            if (iteration + 1) % CHECKPOINT_EVERY == 0:
                lesson.learner.settle()
                checkpoints.save(
                    {
                        "network": network.state_dict(),
                        "optimizer": lesson.learner.optimizer.state_dict(),
                        "iteration": iteration + 1,
                        "history": history,
                    }
                )
    lesson.learner.settle()
    if ranks.rank() == 0:
        save_network(out_dir, network, {"kind": kind, "channels": params.channels, "size": list(size)})
        checkpoints.clear()


class InpaintingStep:
    """An inpainter, the loss of its training and its optimizer.

    Args:
        features: phi; None: L2 alone. compiled: by `torch.compile`.
    """

    def __init__(
        self, fabric: Fabric, network: Inpainter, features: Features | None, params: InpainterParams, compiled: bool
    ) -> None:
        self.fabric, self.params = fabric, params
        self.features = fabric.to_device(features) if features is not None else None
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.Adam(network.parameters(), lr=params.rate, fused=True)
        parts = [part for part in (network, self.features) if part is not None] if compiled else []
        self.learner = Learner(fabric, network, optimizer, parts)

    def step(
        self,
        iteration: int,
        image: Float[Tensor, "B 3 H W"],
        boxes: Float[Tensor, "N B 4"],
        known: Float[Tensor, " B"] | None,
        names: Callable[[], str],
    ) -> dict[str, Tensor]:
        """Learn to fill the union of an image's `boxes`; the terms of the loss.

        Args:
            image: normalized. known: 1 for the images that count; None: all do.
        """
        size = (image.shape[2], image.shape[3])
        hole = torch.stack([hole(box, size) for box in boxes]).amax(dim=0)
        known = torch.ones_like(image[:, 0, 0, 0]) if known is None else known
        output = self.learner.model(image, hole)
        terms = {"l2": (square_distance(output, image) * known).mean()}
        if self.features is not None:
            with self.fabric.autocast():
                distance = feature_distance(self.features(output), self.features(image))
            terms["phi"] = self.params.perceptual * (distance * known).mean()
        rate = self.params.rate * cosine(iteration, self.params.iterations, self.params.decay)
        self.learner.learn(iteration, terms, torch.stack(list(terms.values())).sum(), [rate], names)
        return terms


def random_holes(
    batch: int, side: tuple[float, float], count: int, generator: torch.Generator
) -> Float[Tensor, "N B 4"]:
    """`count` random boxes for each of `batch` images (see `spatial` for boxes).

    Sides are uniform in `side` (shares of the image), centers uniform over the image.
    """
    sides = side[0] + (side[1] - side[0]) * ranks.rand(count, batch, 2, dim=1, generator=generator)
    centers = 2 * ranks.rand(count, batch, 2, dim=1, generator=generator) - 1
    return torch.cat([centers, 2 * sides], dim=-1)
