"""Stage flow: optical flow between a frame and its stabilized neighbor (see `motion.flow_field`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from backdrop.errors import BackdropError
from backdrop.flow.models import MODELS, FlowModel, load_flow_model
from backdrop.flow.parameters import FlowParams
from backdrop.flow.ptlflow import PtlflowModel
from backdrop.io.archives import ArchiveWriter, PartWriter
from backdrop.io.files import parts_folder
from backdrop.io.frame_archive import FrameArchive, frame_counts
from backdrop.io.index import is_streamed, usable_sequences
from backdrop.io.masks import Mask
from backdrop.motion.flow_field import FINE_SIDE, encode_flow, halve_flow
from backdrop.motion.homography import Images, load_homographies, warp
from backdrop.run.chunks import by_sequence, cached_open
from backdrop.run.processes import collect, device_there

FLOW_CHUNK = 24
"""Frames per task: a second of DIS on small images, few enough to keep all processes busy."""


@dataclass(frozen=True)
class FlowFolders:
    """Where the stage reads frames and homographies, and where flow goes. A sequence's file in each bears its name."""

    frames: Path
    homographies: Path
    flow: Path


def pair_flow(
    target: UInt8[np.ndarray, "h w 3"], source: UInt8[np.ndarray, "h w 3"], H: np.ndarray, model: FlowModel
) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Flow from the target to the source warped onto it, and where it is valid.

    Convention: `H` (3, 3) maps source pixels to target pixels. The flow is in pixels of the target, x then y. Valid is
    the warped source's view. Outside it the target itself stands in for the source, so that the flow model sees no
    black border that moves. Where the flow is not valid, it is 0.
    """
    warped, inside = warp(source, H, (target.shape[1], target.shape[0]))
    flow = model(target, np.where(inside[..., None], warped, target))
    valid = inside & np.isfinite(flow).all(2)
    return np.where(valid[..., None], flow, np.float32(0)), valid


def flow_sequence(
    archive: Images,
    homographies: Mapping[str, np.ndarray],
    model: FlowModel,
    out_path: str | Path,
    region: Mask | None = None,
) -> dict[str, int]:
    """Flow of every frame to its stabilized neighbor, one PNG per frame, into an archive.

    A frame whose pair failed gets zeros and is valid nowhere.

    Args:
        region: of interest, at the frames' size: outside flow is not valid. None: the whole image.

    Returns:
        {"frames": N, "valid": pairs with flow}.

    Raises:
        BackdropError: archive and homographies are of different lengths, or a frame cannot be read.
    """
    _write_flow(archive, range(len(archive)), homographies, model, ArchiveWriter(out_path), region=region)
    return {"frames": len(archive), "valid": int(homographies["valid"].sum())}


def _write_flow(
    archive: Images,
    span: range,
    homographies: Mapping[str, np.ndarray],
    model: FlowModel,
    writer: ArchiveWriter,
    *,
    region: Mask | None,
    halved: bool = False,
) -> None:
    """The frames of `span` of `flow_sequence`, at half the size if `halved`."""
    if len(archive) != len(homographies["H"]):
        raise BackdropError(
            f"{len(archive)} frames but {len(homographies['H'])} homographies for {writer.path}: "
            "run the stage stabilize again"
        )
    image = lru_cache(maxsize=4)(archive.image)  # each frame serves as target and as neighbor
    with writer:
        for t in span:
            target = image(t)
            if homographies["valid"][t]:
                flow, inside = pair_flow(target, image(int(homographies["neighbor"][t])), homographies["H"][t], model)
            else:
                flow, inside = np.zeros((*target.shape[:2], 2), np.float32), np.zeros(target.shape[:2], bool)
            valid = inside if region is None else inside & region
            stored = encode_flow(*halve_flow(flow, valid), small=True) if halved else encode_flow(flow, valid)
            writer.add(f"{t:06d}.png", stored)


def flow_all(folders: FlowFolders, params: FlowParams, workers: int = 0, device: str = "cpu") -> None:
    """Flow of every usable sequence into `folders.flow`/<sequence>.zip.

    A model of `MODELS` runs in processes, on chunks of `FLOW_CHUNK` frames. A network takes one sequence after another
    and all cores or the GPU for itself. On a cluster each of its GPUs (or workers) takes a sequence.

    Args:
        workers: processes; 0: one per core.
        device: of a network: "auto", "cpu" or "cuda[:n]".

    Raises:
        BackdropError: the model cannot be loaded (see `load_flow_model`), or a sequence's files are missing or damaged.
    """
    names = usable_sequences(folders.frames)
    if params.model in MODELS:
        _flow_in_chunks(folders, params.model, names, workers)
        return
    # The model is loaded here, too: what is wrong with it is named once, not by every process.
    model = _network(params.model, params.checkpoint, device)
    gpu = isinstance(model, PtlflowModel) and model.device.type == "cuda"
    tasks = [(name, folders, params, device_there(device, gpu)) for name in names]
    collect(_network_file, tasks, 1, title=f"flow ({params.model})", unit="sequence", gpu=gpu)


def _network(name: str, checkpoint: str | None, device: str) -> FlowModel:
    """The same object for one sequence after another, as long as a checkpoint that is a file is the same."""
    path = Path(checkpoint or "")
    state = path.stat() if path.is_file() else None
    return _loaded(name, checkpoint, device, state and (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=1)
def _loaded(name: str, checkpoint: str | None, device: str, state: tuple | None) -> FlowModel:  # noqa: ARG001
    return load_flow_model(name, checkpoint, device)


def _network_file(name: str, folders: FlowFolders, params: FlowParams, device: str) -> None:
    """Write the flow of a sequence by a network."""
    archive = FrameArchive(folders.frames / f"{name}.zip")
    homographies = load_homographies(folders.homographies / f"{name}.npz")
    model = _network(params.model, params.checkpoint, device)
    flow_sequence(archive, homographies, model, folders.flow / f"{name}.zip", archive.region)


def _flow_in_chunks(folders: FlowFolders, model: str, names: list[str], workers: int) -> None:
    """Write the flow of sequences by a model of `MODELS`."""
    counts = frame_counts(folders.frames, names)
    with parts_folder(folders.flow) as parts_dir:
        rest = (folders, model, parts_dir)
        with closing(
            by_sequence(_flow_chunk, counts, FLOW_CHUNK, rest, workers=workers, title=f"flow ({model})")
        ) as sequences:
            for name, parts in sequences:
                with ArchiveWriter(folders.flow / f"{name}.zip") as writer:
                    for part in parts:
                        writer.join(part)


def _flow_chunk(name: str, span: range, folders: FlowFolders, model: str, parts_dir: Path) -> Path:
    """Write the part of an archive of flow into `parts_dir`; its path."""
    archive = cached_open(FrameArchive, folders.frames / f"{name}.zip")
    homographies = cached_open(load_homographies, folders.homographies / f"{name}.npz")
    part = parts_dir / f"{name}.{span.start}.zip"
    writer = PartWriter(part, folders.flow / f"{name}.zip")
    # Flow of frames drawn by `data.budget` is never scored. DIS computes pairs of pixels there: half the size holds it.
    halved = is_streamed(folders.frames) and max(archive.size) > FINE_SIDE
    _write_flow(archive, span, homographies, MODELS[model], writer, region=archive.region, halved=halved)
    return part
