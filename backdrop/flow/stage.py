"""Stage flow: optical flow between a frame and its stabilized neighbor (see `motion.flow_field`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from backdrop.errors import BackdropError
from backdrop.flow.dis import dense_inverse_search
from backdrop.flow.models import FlowModel, load_flow_model
from backdrop.flow.parameters import FlowParams
from backdrop.flow.ptlflow import PtlflowModel
from backdrop.io.archives import ArchiveWriter, PartWriter
from backdrop.io.files import parts_folder
from backdrop.io.frame_archive import FrameArchive, frame_counts
from backdrop.io.index import usable_sequences
from backdrop.motion.flow_field import encode_flow
from backdrop.motion.homography import Images, load_homographies, warp
from backdrop.run.chunks import by_sequence, cached_open
from backdrop.run.processes import collect, device_there

FLOW_CHUNK = 24
"""Frames of DIS a task: a second's work on small images, few enough to keep all processes busy."""


def pair_flow(
    target: UInt8[np.ndarray, "h w 3"], source: UInt8[np.ndarray, "h w 3"], H: np.ndarray, model: FlowModel
) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Flow from the target to the source warped onto it, and where it is valid.

    Convention: `H` maps source pixels to target pixels. Valid is the warped source's view. Outside it the
    target itself stands in for the source, so that the flow model sees no black border that moves.
    """
    warped, inside = warp(source, H, (target.shape[1], target.shape[0]))
    flow = model(target, np.where(inside[..., None], warped, target))
    valid = inside & np.isfinite(flow).all(2)
    return np.where(valid[..., None], flow, np.float32(0)), valid


def flow_sequence(
    archive: Images, homographies: Mapping[str, np.ndarray], model: FlowModel, out_path: str | Path
) -> dict[str, int]:
    """Flow of every frame to its stabilized neighbor, one PNG a frame, into an archive.

    A frame whose pair failed gets zeros and is valid nowhere.

    Returns:
        {"frames": N, "valid": pairs with flow}.

    Raises:
        BackdropError: archive and homographies are of different lengths, or a frame cannot be read.
    """
    _write_flow(archive, range(len(archive)), homographies, model, ArchiveWriter(out_path))
    return {"frames": len(archive), "valid": int(homographies["valid"].sum())}


def _write_flow(
    archive: Images, span: range, homographies: Mapping[str, np.ndarray], model: FlowModel, writer: ArchiveWriter
) -> None:
    """The frames of `span` of `flow_sequence`."""
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
            writer.add(f"{t:06d}.png", encode_flow(flow, inside))


def flow_all(
    frames_dir: str | Path,
    homographies_dir: str | Path,
    out_dir: str | Path,
    params: FlowParams,
    workers: int = 0,
    device: str = "cpu",
) -> None:
    """Flow of every usable sequence of `frames_dir` into `out_dir`/<sequence>.zip.

    DIS runs in `workers` processes (0: one a core), on chunks of `CHUNK` frames; a network takes one sequence after
    another and all cores or the GPU for itself. On a cluster each of its GPUs (or workers) takes a sequence.
    """
    names = usable_sequences(frames_dir)
    frames, homographies, out = Path(frames_dir), Path(homographies_dir), Path(out_dir)
    model = _network(params.model, params.checkpoint, device)
    if not isinstance(model, PtlflowModel):
        _dis_all(names, frames, homographies, out, workers)
        return
    gpu = model.device.type == "cuda"
    there = device_there(device, gpu)
    calls = [(name, frames, homographies, out, params.model, params.checkpoint, there) for name in names]
    collect(_network_file, calls, 1, title=f"flow ({params.model})", unit="sequence", gpu=gpu)


def _network(name: str, checkpoint: str | None, device: str) -> FlowModel:
    """For one sequence after another the same, as long as a checkpoint that is a file is the same."""
    path = Path(checkpoint or "")
    state = path.stat() if path.is_file() else None
    return _loaded(name, checkpoint, device, state and (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=1)
def _loaded(name: str, checkpoint: str | None, device: str, state: tuple | None) -> FlowModel:  # noqa: ARG001
    return load_flow_model(name, checkpoint, device)


def _network_file(
    name: str, frames: Path, homographies: Path, out: Path, model: str, checkpoint: str | None, device: str
) -> None:
    archive, own = FrameArchive(frames / f"{name}.zip"), load_homographies(homographies / f"{name}.npz")
    flow_sequence(archive, own, _network(model, checkpoint, device), out / f"{name}.zip")


def _dis_all(names: list[str], frames: Path, homographies: Path, out: Path, workers: int) -> None:
    counts = frame_counts(frames, names)
    with parts_folder(out) as folder:
        rest = (frames, homographies, out, folder)
        with closing(
            by_sequence(_dis_chunk, counts, FLOW_CHUNK, rest, workers=workers, title="flow (dis)")
        ) as sequences:
            for name, parts in sequences:
                with ArchiveWriter(out / f"{name}.zip") as writer:
                    for part in parts:
                        writer.join(part)


def _dis_chunk(name: str, span: range, frames: Path, homographies: Path, out: Path, folder: Path) -> Path:
    """Write the part of an archive of flow into `folder`; its path."""
    archive = cached_open(FrameArchive, frames / f"{name}.zip")
    own = cached_open(load_homographies, homographies / f"{name}.npz")
    part = folder / f"{name}.{span.start}.zip"
    _write_flow(archive, span, own, dense_inverse_search, PartWriter(part, out / f"{name}.zip"))
    return part
