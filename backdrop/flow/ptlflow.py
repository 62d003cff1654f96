"""Flow models of ptlflow, which is imported only when such a model is asked for."""

from __future__ import annotations

import difflib
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from backdrop.errors import BackdropError
from backdrop.flow.correlation import quiet, use_row_correlation

if TYPE_CHECKING:
    import torch


class PtlflowModel:
    """A network of ptlflow as a `FlowModel`."""

    def __init__(self, network: Any, name: str, device: str = "cpu") -> None:
        import torch

        wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if wanted.startswith("cuda") and not torch.cuda.is_available():
            raise BackdropError(f"device {device} is not available here: set compute.device to auto or cpu")
        self.name = name
        self.device = torch.device(wanted)
        self.network = use_row_correlation(network).eval().to(self.device)

    def __call__(
        self, target: UInt8[np.ndarray, "h w 3"], source: UInt8[np.ndarray, "h w 3"]
    ) -> Float32[np.ndarray, "h w 2"]:
        import torch

        # ptlflow takes BGR in [0, 1], (batch, pair, 3, H, W), and fits the size to the network itself.
        pair = np.ascontiguousarray(np.stack([target, source])[..., ::-1].transpose(0, 3, 1, 2))
        images = torch.from_numpy(pair)[None].to(self.device).float() / 255
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                flow = self.network({"images": images})["flows"]
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise BackdropError(
                f"flow model {self.name} fails on a pair of {target.shape[1]} x {target.shape[0]} images "
                f"({first_line(error)}): choose a two-frame model, or a smaller data.size"
            ) from error
        return flow.reshape(2, *target.shape[:2]).permute(1, 2, 0).float().cpu().numpy()


def load_ptlflow(name: str, checkpoint: str | None, others: Sequence[str] = ()) -> torch.nn.Module:
    """The network with its weights, on the CPU.

    Args:
        checkpoint: see `models.load_flow_model`.
        others: names of flow models that are not ptlflow's, which a message about an unknown name lists.

    Raises:
        BackdropError: unknown name, missing or unfit checkpoint, no network. The message says what to do.
    """
    ptlflow = import_ptlflow()
    names = ptlflow.get_model_names()
    if name not in names:
        close = difflib.get_close_matches(name, [*others, *names], n=4, cutoff=0.4)
        known = f"did you mean {', '.join(close)}" if close else f"known are {', '.join([*others, *names])}"
        raise BackdropError(f"flow.model {name} is not known: {known}")
    published = sorted(getattr(ptlflow.get_model_reference(name), "pretrained_checkpoints", None) or {})
    if checkpoint is None:
        raise BackdropError(f"flow.model {name} needs flow.checkpoint: {_checkpoint_choices(published)}")
    if not Path(checkpoint).is_file() and checkpoint not in published:
        raise BackdropError(f"flow.checkpoint {checkpoint} does not exist: {_checkpoint_choices(published)}")
    try:
        with quiet():
            network = ptlflow.get_model(name, ckpt_path=None)
        return ptlflow.restore_model(network, checkpoint)
    except pickle.UnpicklingError as error:
        raise BackdropError(
            f"flow.checkpoint {checkpoint} holds more than tensors and is not loaded: it could run code "
            f"({first_line(error)}): save it as torch.save({{'state_dict': model.state_dict()}}, path)"
        ) from error
    except OSError as error:  # URLError is one; so are the timeouts
        raise BackdropError(
            f"cannot download the weights of {name} ({first_line(error)}): fetch them on a machine with a "
            f"network and set flow.checkpoint to the local file, or set flow.model to dis, which needs none"
        ) from error
    except (KeyError, TypeError, RuntimeError, ValueError, EOFError) as error:
        raise BackdropError(
            f"flow.checkpoint {checkpoint} does not fit {name} ({first_line(error)}): "
            f"it must be a file of torch.save({{'state_dict': ...}}) of that very model"
        ) from error


def _checkpoint_choices(published: list[str]) -> str:
    local = "the path of a local file that holds {'state_dict': ...}"
    return f"give {local}, or one of the published {', '.join(published)}" if published else f"give {local}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def import_ptlflow() -> Any:
    """Import ptlflow (seconds, a gigabyte, and a page of notices about extensions, which are dropped)."""
    with quiet():
        import ptlflow
        from loguru import logger

    logger.disable("ptlflow")
    return ptlflow
