"""A start for the encoders of D and S that needs no labels: instance discrimination on the training frames.

Source: Wu, Xiong, Yu and Lin, *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, CVPR 2018; a
row of the papers' Table 3.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor, nn

from backdrop.errors import BackdropError
from backdrop.learn import ranks
from backdrop.learn.checkpoints import Checkpoints
from backdrop.learn.curves import progress
from backdrop.learn.fabric import loader_workers
from backdrop.learn.learner import Learner, generator_at
from backdrop.learn.source_files import run_key
from backdrop.learn.training_frames import Batch, TrainingFrames, frame_names
from backdrop.networks import spatial
from backdrop.networks.encoder import levels, normalize
from backdrop.train.augmentation import ColorChange, mirrored
from backdrop.train.model import Model
from backdrop.train.parameters import TrainFolders, TrainStage

DESCRIPTION = 128
"""Numbers that describe a frame. This, the two below and the crops' least side are those of the source."""

TEMPERATURE = 0.07

MOMENTUM = 0.5
"""Share of a frame's old description that stays in the memory when it is seen again."""

SMALLEST_CROP = 0.45
"""Least side of a crop as a share of the image's: a fifth of its area."""


class InstanceNetwork(nn.Module):
    """An encoder whose pooled features describe a frame by a unit vector, and the memory of all frames' vectors.

    Args:
        frames: how many there are; each is a class of its own.
    """

    memory: Tensor

    def __init__(self, backbone: str, frames: int) -> None:
        super().__init__()
        encoder = levels(backbone, "none")
        self.parts = nn.ModuleList(nn.Sequential(*part) for part in encoder.parts)
        self.head = nn.Linear(encoder.widths[-1], DESCRIPTION)
        self.register_buffer("memory", F.normalize(torch.randn(frames, DESCRIPTION), dim=1))

    def forward(self, crop: Float[Tensor, "B 3 K K"]) -> Float[Tensor, "B N"]:
        x = crop
        for part in self.parts:
            x = part(x)
        return F.normalize(self.head(x.mean(dim=(2, 3))).float(), dim=1)

    def loss(self, vector: Float[Tensor, "B N"], index: Int[Tensor, "B"]) -> Float[Tensor, ""]:
        """The non-parametric softmax over all frames: which frame is it?"""
        return F.cross_entropy(vector @ self.memory.T / TEMPERATURE, index)

    @torch.no_grad()
    def remember(self, vector: Float[Tensor, "B N"], index: Int[Tensor, "B"]) -> None:
        """Move the memory of these frames towards what they look like now."""
        vector, index = ranks.gather(vector.detach()), ranks.gather(index)
        self.memory[index] = F.normalize(MOMENTUM * self.memory[index] + (1 - MOMENTUM) * vector, dim=1)


class Pretraining:
    """Instance discrimination for `train.pretrain_iterations`; `run` then gives the encoders of D and S its weights.

    It has a checkpoint of its own, so that a run that is stopped goes on. `run` keeps it: joint training clears it as
    soon as it has one itself.

    Raises:
        BackdropError: D and S have different encoders, or chosen weights that this would overwrite.
    """

    def __init__(self, params: TrainStage, folders: TrainFolders, data: TrainingFrames, fabric: Fabric) -> None:
        if params.encoder.weights != "none":
            raise BackdropError(
                f"train.pretrain_iterations starts from random weights, and encoder.weights is "
                f"{params.encoder.weights}: set one of them to its default, 0 or none"
            )
        if params.encoder.backbone == "resnet18" and params.synthesis.encoder != "resnet18":
            raise BackdropError(
                f"train.pretrain_iterations trains one encoder for D and S, and synthesis.encoder is "
                f"{params.synthesis.encoder}: set it to resnet18, or train.pretrain_iterations to 0"
            )
        self.params, self.data, self.fabric = params, data, fabric
        with torch.random.fork_rng(devices=[]):  # joint training draws what it draws without
            torch.manual_seed(params.seed)
            network = InstanceNetwork(params.encoder.backbone, len(data))
        self.learner = Learner(
            fabric, network, torch.optim.Adam(network.parameters(), lr=params.train.rate, fused=True)
        )
        self.checkpoints = pretraining_checkpoints(params, folders, data)

    @property
    def network(self) -> InstanceNetwork:
        assert isinstance(self.learner.network, InstanceNetwork)
        return self.learner.network

    def run(self, model: Model) -> None:
        """Train from the last checkpoint (or the start), and copy the encoder to D and S."""
        train = self.params.train
        state = self.checkpoints.load()
        start = 0
        if state is not None:
            self.learner.restore(state)
            start = state["iteration"]
        bar = progress(train.pretrain_iterations, start, "encoders")
        with bar:
            workers = loader_workers(self.fabric)
            batches = self.data.batches(self.params.seed, start, train.pretrain_iterations, train.batch, workers)
            for iteration, batch in enumerate(batches, start):
                self._iterate(iteration, batch)
                bar.update()
                last = iteration + 1 == train.pretrain_iterations
                if (iteration + 1) % train.checkpoint_every == 0 or last:
                    self.checkpoints.save(self.learner.state() | {"iteration": iteration + 1})
        give_encoder(self.network, model)

    def _iterate(self, iteration: int, batch: Batch) -> None:
        generator = generator_at(self.params.seed + 2, iteration)  # joint training has the two streams before
        device, count = self.fabric.device, len(batch.image)
        image = ColorChange(count, generator)(batch.image.to(device, non_blocking=True).float() / 255)
        (image,) = mirrored((image,), generator)
        side = SMALLEST_CROP + (1 - SMALLEST_CROP) * ranks.rand(count, 2, generator=generator)
        center = (2 * ranks.rand(count, 2, generator=generator) - 1) * (1 - side)
        box = torch.cat([center, 2 * side], dim=1).to(image)
        vector = self.learner.model(spatial.crop(normalize(image), box, self.params.detector.input))
        index = batch.index.to(device)
        loss = self.network.loss(vector, index)
        names = partial(frame_names, self.data, batch)
        self.learner.learn(iteration, {"instance": loss}, loss, [self.params.train.rate], names)
        self.network.remember(vector, index)


def pretraining_checkpoints(params: TrainStage, folders: TrainFolders, data: TrainingFrames) -> Checkpoints:
    """Where `Pretraining` keeps its state."""
    sections = ["pretraining", params.seed, params.encoder, params.detector, params.train, data.fingerprint()]
    return Checkpoints(folders.checkpoints, run_key("train", sections))


def give_encoder(network: InstanceNetwork, model: Model) -> None:
    """Copy the encoder's weights, and what its batch norms saw, to D and S."""
    parts = [list(part.children()) for part in network.parts]
    trunk = nn.Sequential(*(module for part in parts[:4] for module in part))  # D ends at stride 16
    model.detector.trunk.load_state_dict(trunk.state_dict())
    for ours, theirs in zip([model.synthesis.stem, *model.synthesis.stages], parts, strict=True):
        ours.load_state_dict((theirs[0] if len(theirs) == 1 else nn.Sequential(*theirs)).state_dict())
