"""Training of the inpainters on random holes, before joint training (journal version, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from backdrop.inpaint.parameters import InpainterParams, InpaintFolders, InpaintStage
from backdrop.learn import ranks
from backdrop.learn.checkpoints import Checkpoints
from backdrop.learn.curves import log_row, open_live, progress
from backdrop.learn.fabric import loader_workers, make_fabric
from backdrop.learn.learner import Learner, cosine, generator_at
from backdrop.learn.source_files import run_key
from backdrop.learn.training_frames import Batch, TrainingFrames, frame_names, to_images
from backdrop.networks import spatial
from backdrop.networks.encoder import Features, feature_distance, normalize, square_distance
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.model_folders import save_network
from backdrop.run.chunks import spread

CHECKPOINT_EVERY = 500
"""Iterations between two resume checkpoints."""

COLOR_FRAMES = 64
"""Frames that the color an inpainter starts from is averaged over."""


def mean_color(data: TrainingFrames, kind: str) -> Float[Tensor, " 3"]:
    """The mean normalized color of up to `COLOR_FRAMES` of the images that an inpainter is to learn."""
    rows = [Batch(*data[index]) for index in spread(range(len(data)), COLOR_FRAMES)]
    pictures = [row.flow if kind == "flow" else row.image for row in rows if kind == "rgb" or row.flow_valid]
    if not pictures:
        return torch.zeros(3)
    return normalize(torch.as_tensor(np.stack(pictures)).float() / 255).mean(dim=(0, 2, 3))


class InpainterTraining:
    """Training of one inpainter; `run` trains to the end and writes the model folder.

    Args:
        kind: "rgb" trains on frames, "flow" on flow images (valid ones only).
        folders: what is read, and where curves and resume states go.
    """

    def __init__(self, kind: str, params: InpaintStage, folders: InpaintFolders) -> None:
        self.kind, self.params, self.folders = kind, params, folders
        self.fabric = make_fabric(params.compute)
        self.fabric.seed_everything(params.seed, verbose=False)
        self.data = TrainingFrames(folders.frames, folders.flow if kind == "flow" else None, params.size)
        self.network = Inpainter(params.inpainter.channels)
        if params.inpainter.start_color:
            self.network.start_color(mean_color(self.data, kind))
        self.fabric.launch()
        features = Features(params.perceptual_weights, params.backbone) if params.inpainter.perceptual else None
        self.inpainting = InpaintingStep(self.fabric, self.network, features, params.inpainter, params.compute.compile)
        sections = [kind, params.inpainter, params.seed, params.size, params.backbone, params.perceptual_weights]
        sections += [self.data.fingerprint()]
        self.checkpoints = Checkpoints(folders.checkpoints, run_key("inpaint", sections))

    def run(self, out_dir: Path) -> None:
        """Train from the last checkpoint (or the start) to the end and write `out_dir`."""
        total = self.params.inpainter.iterations
        start, history = self._resume()
        every = max(1, total // 100)
        bar = progress(total, start, f"inpainter {self.kind}")
        with bar, open_live(self.folders.log, history) as live:
            batches = self.data.batches(
                self.params.seed, start, total, self.params.inpainter.batch, loader_workers(self.fabric)
            )
            for iteration, batch in enumerate(batches, start):
                terms = self._iterate(iteration, batch)
                bar.update()
                if iteration % every == 0 or iteration + 1 == total:
                    row = {"iteration": iteration} | {key: float(value.detach()) for key, value in terms.items()}
                    log_row(live, row, history)
                if (iteration + 1) % CHECKPOINT_EVERY == 0:
                    self._save(iteration + 1, history)
        self.inpainting.learner.check_pending()
        if ranks.rank() == 0:
            config = {"kind": self.kind, "channels": self.params.inpainter.channels, "size": list(self.params.size)}
            save_network(out_dir, self.network, config)
            self.checkpoints.clear()

    def _iterate(self, iteration: int, batch: Batch) -> dict[str, Tensor]:
        """One optimizer step; the terms of the loss."""
        flow, params = self.kind == "flow", self.params.inpainter
        image = to_images(self.fabric, batch.flow if flow else batch.image)
        known = batch.flow_valid.to(image, non_blocking=True) if flow else None
        generator = generator_at(self.params.seed, iteration)
        boxes = random_holes(len(image), params.hole, params.holes, generator)
        names = partial(frame_names, self.data, batch)
        return self.inpainting.step(iteration, image, boxes.to(image, non_blocking=True), known, names)

    def _save(self, iteration: int, history: list) -> None:
        self.checkpoints.save(self.inpainting.learner.state() | {"iteration": iteration, "history": history})

    def _resume(self) -> tuple[int, list]:
        """The first iteration that is left to do, and the curves so far."""
        state = self.checkpoints.load()
        if state is None:
            return 0, []
        self.inpainting.learner.restore(state)
        return state["iteration"], state["history"]


class InpaintingStep:
    """An inpainter, the loss of its training and its optimizer.

    Args:
        features: phi; None: L2 alone.
        compiled: by `torch.compile`.
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
        """Learn to fill the union of each image's N `boxes`: L2, plus perceptual (journal version, section 3.3).

        Args:
            image: normalized.
            known: 1 for the images that count; None: all do.
            names: gives the batch's frames, for a message.

        Returns:
            The terms of the loss, weighted.
        """
        size = (image.shape[2], image.shape[3])
        hole = torch.stack([spatial.hole(box, size) for box in boxes]).amax(dim=0)
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
