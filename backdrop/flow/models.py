"""Flow models by name: dis, or any model of ptlflow (flownet2, raft, ...)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from backdrop.flow.dis import dense_inverse_search
from backdrop.flow.ptlflow import PtlflowModel, load_ptlflow

FlowModel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(target RGB uint8 (H, W, 3), source of the same shape) -> flow (H, W, 2) float32 in pixels."""


def load_flow_model(name: str, checkpoint: str | None = None, device: str = "cpu") -> FlowModel:
    """A flow model by name.

    Args:
        name: "dis" or a model of ptlflow.
        checkpoint: for a model of ptlflow, the name of weights it publishes ("things" for flownet2;
            downloaded once) or a local file that holds {"state_dict": ...}; it is read without
            running any code in it. Not used by "dis".
        device: "auto", "cpu" or "cuda[:n]". "dis" runs on the CPU.

    Raises:
        BackdropError: unknown name, missing or unfit checkpoint, no network, no such device.
    """
    if name == "dis":
        return dense_inverse_search
    return PtlflowModel(load_ptlflow(name, checkpoint), name, device)
