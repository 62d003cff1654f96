"""Device, precision and processes of a training."""

from __future__ import annotations

import os
from typing import Any

import torch._functorch.config
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.strategies import DDPStrategy

from backdrop.errors import BackdropError
from backdrop.run.compute import ComputeParams


def make_fabric(compute: ComputeParams, phases: bool = False) -> Fabric:
    """Device, precision and processes as `compute` says; `launch()` starts the processes.

    torchrun and srun say themselves how many processes there are; else `compute.devices` of them are started on this
    machine (on each, with `compute.nodes` and the variables NODE_RANK and MASTER_ADDR). FSDP has no place here: the
    networks of the papers' scale and their optimizer take 0.74 GB.

    Args:
        phases: the training has some in which a part of the network learns nothing.

    Raises:
        BackdropError: a GPU was asked for and there is none, or fewer than asked for.
    """
    wanted = compute.device
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise BackdropError(f"compute.device={wanted}: PyTorch sees no GPU here; set compute.device to auto or cpu")
    cuda = wanted.startswith("cuda") or (wanted == "auto" and torch.cuda.is_available())
    environment, count, nodes = _launcher(compute)
    if cuda and count > torch.cuda.device_count():
        raise BackdropError(
            f"compute.devices={count}: PyTorch sees {torch.cuda.device_count()} GPU(s) here; lower compute.devices"
        )
    if ":" in wanted and count * nodes > 1:
        raise BackdropError(f"compute.device={wanted} names one GPU; with {count * nodes} processes set it to cuda")
    devices: Any = [int(wanted.split(":")[1])] if ":" in wanted else count
    half = compute.precision == "bf16" or (compute.precision == "auto" and _has_bf16(cuda))
    strategy: Any = "auto"
    if count * nodes > 1:
        # Buffers agree already, by the shared batch norm.
        strategy = DDPStrategy(find_unused_parameters=phases, forward_sync_buffers=False)
    try:
        return Fabric(
            accelerator="cuda" if cuda else "cpu",
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision="bf16-mixed" if half else "32-true",
            plugins=[environment],
        )
    except (ValueError, RuntimeError) as error:
        raise BackdropError(f"the processes of the training cannot be set up: {str(error).splitlines()[0]}") from None


def _launcher(compute: ComputeParams) -> tuple[ClusterEnvironment, int, int]:
    """Who starts the processes, how many of them on a machine, and on how many machines."""
    if TorchElasticEnvironment.detect():
        count = int(os.environ["LOCAL_WORLD_SIZE"])
        return TorchElasticEnvironment(), count, int(os.environ["WORLD_SIZE"]) // count
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # srun's; a batch script without srun has no such variable
        nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
        return SLURMEnvironment(auto_requeue=False), int(os.environ["SLURM_STEP_NUM_TASKS"]) // nodes, nodes
    return LightningEnvironment(), compute.devices, compute.nodes


def _has_bf16(cuda: bool) -> bool:
    if cuda:
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def loader_workers(fabric: Fabric) -> int:
    """Loader processes: the scratch file makes loading so cheap on a CPU that a process would only take its core."""
    if fabric.device.type != "cuda":
        return 0
    beside = getattr(fabric.strategy, "num_processes", 1)  # on this machine, whoever started them
    return min(8, max(1, (os.cpu_count() or 1) // beside - 1))
