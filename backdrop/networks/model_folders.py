"""Model folders: model.safetensors beside config.json. Nothing that is loaded can run code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from backdrop.errors import BackdropError
from backdrop.io.files import atomic_folder

Network = TypeVar("Network", bound=nn.Module)

MAX_CONFIG = 16_384
"""Bytes of config.json: ours have two thousand; what it lists is built before the weights can tell that it is wrong."""


def save_network(folder: Path, network: nn.Module | Mapping[str, nn.Module], config: Mapping[str, Any]) -> None:
    """Write model.safetensors and config.json into `folder`, all or nothing."""
    parts = network if isinstance(network, Mapping) else {"": network}
    state = {
        f"{name}.{key}" if name else key: value.detach().cpu().contiguous()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    with atomic_folder(folder) as part:
        (part / "model.safetensors").write_bytes(save(state))  # save_file's errors do not tell a full disk
        (part / "config.json").write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n")


def load_network(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the config of a model folder.

    Raises:
        BackdropError: the folder is not a model of Backdrop's.
    """
    folder = Path(folder)
    try:
        if (folder / "config.json").stat().st_size > MAX_CONFIG:
            raise ValueError(f"config.json has more than {MAX_CONFIG} bytes")
        config = json.loads((folder / "config.json").read_text())
        if not isinstance(config, dict):
            raise ValueError("config.json is not a mapping")
        return load_file(folder / "model.safetensors"), config
    except (OSError, ValueError, RecursionError) as error:
        raise BackdropError(f"{folder} is no model folder (model.safetensors and config.json): {error}") from None
    except Exception as error:
        raise BackdropError(f"{folder}/model.safetensors cannot be read: {error}") from None


def with_weights(make: Callable[[], Network], state: Mapping[str, Tensor]) -> Network:
    """The network that `make` builds, with these weights.

    Shapes are compared on a network that takes no memory: a config may ask for more than there is.

    Raises:
        RuntimeError: they do not fit.
    """
    with torch.device("meta"):
        make().load_state_dict(state, assign=True)
    network = make()
    network.load_state_dict(state)
    return network
