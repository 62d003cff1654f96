"""The weights and templates that ship, learned on composed rendered footage by `benchmarks.touching --learn`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from backdrop.crf.instance.energy import InstanceWeights
from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path

SHIPPED_INSTANCE_CRF = Path(__file__).with_name("instance_crf.safetensors")


def save_instance_crf(path: Path, weights: InstanceWeights, templates: Float[np.ndarray, "T S S"]) -> None:
    """Write weights (floats) and templates to one file."""
    values = {name: np.array(value, np.float32) for name, value in weights._asdict().items()}
    with atomic_path(path) as temporary:
        save_file({**values, "templates": np.ascontiguousarray(templates, np.float32)}, temporary)


@lru_cache(maxsize=2)
def load_instance_crf(path: Path = SHIPPED_INSTANCE_CRF) -> tuple[InstanceWeights, Float[np.ndarray, "T S S"]]:
    """Weights and templates, as `save_instance_crf` wrote them.

    Raises:
        BackdropError: the file is missing, or is none of these.
    """
    try:
        values = load_file(path)
        templates = values.pop("templates")
        return InstanceWeights(**{name: float(value) for name, value in values.items()}), templates
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BackdropError(f"{path.name}: not the weights of the instance CRF ({error}); install again") from None
