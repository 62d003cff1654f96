"""What processes that train together share. Each has a rank (its number) and an equal part of every batch.

Everything here is the identity while a single process trains. What is random in an iteration is drawn by every rank
for the batch of all ranks, by the same generator, and each takes its rows. So the draws do not depend on how many
processes train together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, 0..world-1."""
    return dist.get_rank() if world() > 1 else 0


def local_part(batch: Tensor, dim: int = 0) -> Tensor:
    """This rank's part of the batch of all ranks, whose images lie along `dim`."""
    if world() == 1:
        return batch
    count = batch.shape[dim] // world()
    return batch.narrow(dim, rank() * count, count)


def gather(part: Tensor) -> Tensor:
    """The batch of all ranks from this rank's part of it, in the order of the ranks.

    All parts have the same shape. Gradients do not pass.
    """
    if world() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(world())]
    dist.all_gather(parts, part.detach().contiguous())
    return torch.cat(parts)


def rand(
    *shape: int, dim: int = 0, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """`torch.rand` of this rank's part; its images lie along `dim`."""
    sides = list(shape)
    sides[dim] *= world()
    return local_part(torch.rand(sides, generator=generator, device=device), dim)


def mean(value: Tensor) -> Tensor:
    """The mean over the ranks; its gradient is that of this rank's value.

    Training averages gradients over the ranks afterwards: a function of the mean then has its full gradient.
    """
    if world() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return value + (total / world() - value.detach())


def means(values: list[float]) -> list[float]:
    """The mean over the ranks of each number."""
    if world() == 1:
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return mean(torch.tensor(values, dtype=torch.float64, device=device)).tolist()


def broadcast(value: Any) -> Any:
    """What the first rank holds."""
    if world() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


@contextmanager
def main_process_first() -> Iterator[bool]:
    """True in the first process; the others wait at the block's end until it is there, for days if need be.

    By gloo on a GPU, too: where a process ends, its connections close, and the others end with an error.
    """
    group = _patient() if world() > 1 else None
    yield rank() == 0
    if group is not None:
        dist.barrier(group)


@lru_cache(maxsize=1)
def _patient() -> Any:
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))


class _Sum(torch.autograd.Function):
    """The sum over the ranks. The loss of every rank depends on it, so the gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override] # noqa: ARG004
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class BatchNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of all ranks' images, on a CPU: PyTorch's SyncBatchNorm is for GPUs only."""

    def forward(self, image: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(image)
        values = image.float()
        count = world() * values.numel() // values.shape[1]
        mean = _Sum.apply(values.sum(dim=(0, 2, 3))) / count
        centered = values - mean[:, None, None]
        variance = _Sum.apply(centered.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None  # noqa: PT018
            assert self.momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(image.dtype)


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """`network`, its batch norms with the statistics of all ranks' images; parameters and state keep their names."""
    if world() == 1:
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm  # the same layer; a new one would have to be put into its parent
    return network
