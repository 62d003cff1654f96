"""Training of the motion network on collages, and its weights in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from backdrop.collage.parameters import CollageStage
from backdrop.collage.samples import Sample, read_samples, write_samples
from backdrop.io.files import atomic_path
from backdrop.learn.checkpoints import Checkpoints
from backdrop.learn.curves import log_row, open_live, progress
from backdrop.learn.fabric import make_fabric
from backdrop.learn.learner import Learner, cosine, generator_at
from backdrop.learn.source_files import run_key
from backdrop.measures import jaccard
from backdrop.networks.motion_network import MotionNetwork, mirrored_evidence, motion_masks

CollageBatch = tuple[Float[Tensor, "B G 6 h w"], Float[Tensor, "B 4 h w"], Float[Tensor, "B 1 h w"]]
"""Evidence of the flow, of the scene, and the mask."""

CURVE_EVERY, RESUME_EVERY = 50, 150

LESS: tuple[tuple[int, ...], ...] = ((0, 2, 4), (1, 3, 5), (4, 5))
"""Neighbors taken out of a batch: those after, those before, the far ones."""


class MotionTraining:
    """`run` makes the samples, trains to the end and writes the weights.

    Args:
        work: holds samples and resume state.
        log: DVCLive's curves.
    """

    def __init__(self, params: CollageStage, work: Path, log: Path) -> None:
        self.params, self.collage, self.work, self.log = params, params.collage, work, log
        self.fabric = make_fabric(params.compute)
        self.fabric.seed_everything(self.collage.seed, verbose=False)
        network = MotionNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.fabric.launch()
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.collage.rate, weight_decay=1e-3)
        self.network, self.learner = network, Learner(self.fabric, network, optimizer)
        self.checkpoints = Checkpoints(work, run_key("collage", [self.collage]))

    def run(self, out: Path) -> None:
        """From the last checkpoint (or the start) to the end."""
        samples = read_samples(write_samples(self.work / "samples", self.collage, self.params.compute.workers))
        state = self.checkpoints.load()
        start, history = 0, []
        if state is not None:
            self.learner.restore(state)
            start, history = state["iteration"], state["history"]
        with open_live(self.log, history) as live:
            self._learn(samples, start, live, history)
            row = {"iteration": self.collage.iterations, "held_J": self._held(samples)}
            log_row(live, row, history)
        half = {key: value.detach().cpu().half().contiguous() for key, value in self.network.state_dict().items()}
        with atomic_path(out) as temporary:
            temporary.write_bytes(save(half))
        self.checkpoints.clear()

    def _learn(self, samples: Sample, start: int, live: Any, history: list) -> None:
        collage, device = self.collage, self.fabric.device
        self.network.train()
        with progress(collage.iterations, start, "motion network") as bar:
            for iteration in range(start, collage.iterations):
                generator = generator_at(collage.seed, iteration)
                chosen = torch.randint(collage.samples, (collage.batch,), generator=generator).numpy()
                flow, scene, mask = (torch.from_numpy(part[chosen]).float().to(device) for part in samples)
                flow, scene, mask = vary((flow, scene, mask[:, None] / 255), generator)
                terms = motion_loss(self.learner.model(flow, scene), mask)
                rate = collage.rate * min(1.0, (iteration + 1) / 50) * cosine(iteration, collage.iterations, True)
                self.learner.learn(iteration, terms, terms["bce"] + 0.5 * terms["dice"], [rate], lambda: "collages")
                bar.update()
                if iteration % CURVE_EVERY == 0:
                    values = {name: float(value.detach()) for name, value in terms.items()}
                    log_row(live, {"iteration": iteration} | values, history)
                if (iteration + 1) % RESUME_EVERY == 0:
                    self.checkpoints.save(self.learner.state() | {"iteration": iteration + 1, "history": history})

    def _held(self, samples: Sample) -> float:
        """Mean J on the held-out collages, at one half."""
        self.network.eval().cpu()
        found = []
        for start in range(self.collage.samples, len(samples.mask), 16):
            part = slice(start, start + 16)
            soft = motion_masks(self.network, list(samples.flow[part]), list(samples.scene[part]))
            found += [jaccard(a > 0.5, b > 127) for a, b in zip(soft, samples.mask[part], strict=True)]
        return float(np.mean(found))


def vary(batch: CollageBatch, generator: torch.Generator) -> CollageBatch:
    """A batch changed at random, alike in all its samples but for zoom, shift and contrast.

    Mirrored; without some of its neighbors, without views, or without any flow; zoomed and shifted.
    """
    flow, scene, mask = batch

    def chance() -> float:
        return float(torch.rand((), generator=generator))

    if chance() < 0.5:
        (flow, scene), mask = mirrored_evidence(flow, scene), mask.flip(3)
    if chance() < 0.25:
        flow = flow.clone()
        flow[:, list(LESS[int(chance() * len(LESS))])] = 0
    left_out = chance()
    if left_out < 0.15:
        scene = torch.cat([scene[:, :1], torch.zeros_like(scene[:, 1:])], dim=1)
    elif left_out < 0.22:
        flow = torch.zeros_like(flow)
    if chance() < 0.6:
        flow, scene, mask = _zoom((flow, scene, mask), generator)
    contrast = torch.randn(len(scene), generator=generator).mul(0.3).exp().to(scene.device)[:, None, None]
    changed = scene.clone()
    changed[:, 1] *= contrast
    return flow, changed, mask


def _zoom(batch: CollageBatch, generator: torch.Generator) -> CollageBatch:
    """Zoomed by 0.6 to 1.2 of the view and shifted. Convention: image coordinates in [-1, 1], align_corners=False."""
    flow, scene, mask = batch
    count, device = len(mask), mask.device
    view = 0.6 + 0.6 * torch.rand(count, generator=generator)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = view
    theta[:, :, 2] = 0.3 * (torch.rand(count, 2, generator=generator) * 2 - 1)
    grid = F.affine_grid(theta.to(device), [count, 1, *mask.shape[2:]], align_corners=False)

    def sampled(planes: Tensor) -> Tensor:
        return F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)

    return sampled(flow.flatten(1, 2)).view_as(flow), sampled(scene), sampled(mask)


def motion_loss(logits: Float[Tensor, "B 1 h w"], mask: Float[Tensor, "B 1 h w"]) -> dict[str, Tensor]:
    """Binary cross-entropy, and 1 - Dice of each image: small subjects count as much as large ones."""
    soft = logits.sigmoid()
    overlap, both = (soft * mask).sum(dim=(1, 2, 3)), (soft + mask).sum(dim=(1, 2, 3))
    dice = 1 - (2 * overlap + 20) / (both + 20)
    return {"bce": F.binary_cross_entropy_with_logits(logits, mask), "dice": dice.mean()}
