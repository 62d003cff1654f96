"""Flow models by name: those of `MODELS`, or any model of ptlflow (flownet2, raft, ...)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from backdrop.flow.ptlflow import PtlflowModel, load_ptlflow
from backdrop.motion.flow_field import dense_inverse_search

FlowModel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(target RGB uint8 (H, W, 3), source of the same shape) -> flow (H, W, 2) float32 in pixels, x then y.

The flow leads from a pixel of the target to the same point in the source.
"""

MODELS: dict[str, FlowModel] = {
    "dis": dense_inverse_search,
}
"""Flow models without weights, which run on the CPU, in one process per core. All other names are asked of ptlflow."""


def load_flow_model(name: str, checkpoint: str | None = None, device: str = "cpu") -> FlowModel:
    """A flow model by name.

    Args:
        name: a name of `MODELS`, or of a model of ptlflow.
        checkpoint: for a model of ptlflow, the name of weights it publishes ("things" for flownet2;
            downloaded once) or a local file that holds {"state_dict": ...}. It is read without
            running any code in it. The models of `MODELS` need none.
        device: "auto", "cpu" or "cuda[:n]", for a model of ptlflow.

    Raises:
        BackdropError: unknown name, missing or unfit checkpoint, no network, no such device.
    """
    if name in MODELS:
        return MODELS[name]
    return PtlflowModel(load_ptlflow(name, checkpoint, tuple(MODELS)), name, device)
