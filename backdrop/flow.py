"""Optical flow between a frame and its stabilized neighbor.

Convention of every flow field here: (H, W, 2) float32 in pixels, last axis (u, v) = (x to the right,
y down). A point p of frame t lies at p + flow[p] in the neighbor that was warped onto frame t, so
that the flow of the static background is zero whatever the camera did.

Models go by name: "dis" (OpenCV's dense inverse search, which needs no weights) or any model of
ptlflow ("flownet2", "raft", ...), which is imported only when such a model is asked for.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from backdrop.chunks import by_sequence, frame_counts, kept
from backdrop.errors import BackdropError
from backdrop.homography import Images, load_homographies, usable_sequences, warp
from backdrop.processes import collect, device_there
from backdrop.video import ZIP_FAULTS, ArchiveWriter, FrameArchive, PartWriter, decode_stored, parts_folder

if TYPE_CHECKING:
    import torch

FlowModel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(target RGB uint8 (H, W, 3), source of the same shape) -> flow (H, W, 2) float32 in pixels."""

STEP = 64.0
"""A pixel of flow in steps of the 16-bit encoding: rounding costs at most 1/128 pixel."""
LIMIT = 32767 / STEP
"""The largest flow component that the encoding holds, in pixels."""
FINE_SIDE = 512
"""DIS goes down to single pixels on images whose longer side is at most this, else to pairs of pixels."""
NOISE = 1.0
"""The least flow, in pixels, that gets full color: below it a flow image would amplify noise."""
CHUNK = 24
"""Frames of DIS a task: a second's work on small images, few enough to keep all processes busy."""


@runtime_checkable
class FlowChoice(Protocol):
    """The parameters read here (the section `flow` of params.yaml)."""

    model: str
    checkpoint: str | None


# Models -----------------------------------------------------------------------------------------------


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
    return PtlflowModel(_load_ptlflow(name, checkpoint), name, device)


def dense_inverse_search(
    target: UInt8[np.ndarray, "h w 3"], source: UInt8[np.ndarray, "h w 3"]
) -> Float32[np.ndarray, "h w 2"]:
    """OpenCV's DIS flow on gray images: preset MEDIUM, on small images down to the finest level.

    Measured on 48 pairs of embedded footage (320 x 192), mean error on the subject and on the background:
    FAST 2.3 and 0.27 pixels, MEDIUM 1.4 and 0.18, with the finest level 0.9 and 0.17. On six sequences of
    DAVIS (854 x 480) the finest level separates the subject no better, at twice the time.
    The result does not depend on the number of threads.
    """
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    if max(target.shape) <= FINE_SIDE:
        search.setFinestScale(0)
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (target, source)]
    try:
        return search.calc(*gray, None).astype(np.float32)
    except cv2.error as error:  # its pyramid needs room, most of all in long and low images
        height, width = gray[0].shape
        raise BackdropError(f"DIS flow fails on {width} x {height} images ({error.err}): enlarge data.size") from error


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
                f"({_first_line(error)}): choose a two-frame model, or a smaller data.size"
            ) from error
        return flow.reshape(2, *target.shape[:2]).permute(1, 2, 0).float().cpu().numpy()


def _load_ptlflow(name: str, checkpoint: str | None) -> torch.nn.Module:
    """The network with its weights, on the CPU; every failure as a BackdropError with its remedy."""
    ptlflow = import_ptlflow()
    names = ptlflow.get_model_names()
    if name not in names:
        close = difflib.get_close_matches(name, ["dis", *names], n=4, cutoff=0.4)
        known = f"did you mean {', '.join(close)}" if close else f"known are dis, {', '.join(names)}"
        raise BackdropError(f"flow.model {name} is not known: {known}")
    published = sorted(getattr(ptlflow.get_model_reference(name), "pretrained_checkpoints", None) or {})
    if checkpoint is None:
        raise BackdropError(f"flow.model {name} needs flow.checkpoint: {_choices(published)}")
    if not Path(checkpoint).is_file() and checkpoint not in published:
        raise BackdropError(f"flow.checkpoint {checkpoint} does not exist: {_choices(published)}")
    try:
        with quiet():
            network = ptlflow.get_model(name, ckpt_path=None)
        return ptlflow.restore_model(network, checkpoint)
    except pickle.UnpicklingError as error:
        raise BackdropError(
            f"flow.checkpoint {checkpoint} holds more than tensors and is not loaded: it could run code "
            f"({_first_line(error)}): save it as torch.save({{'state_dict': model.state_dict()}}, path)"
        ) from error
    except OSError as error:  # URLError is one; so are the timeouts
        raise BackdropError(
            f"cannot download the weights of {name} ({_first_line(error)}): fetch them on a machine with a "
            f"network and set flow.checkpoint to the local file, or set flow.model to dis, which needs none"
        ) from error
    except (KeyError, TypeError, RuntimeError, ValueError, EOFError) as error:
        raise BackdropError(
            f"flow.checkpoint {checkpoint} does not fit {name} ({_first_line(error)}): "
            f"it must be a file of torch.save({{'state_dict': ...}}) of that very model"
        ) from error


def _choices(published: list[str]) -> str:
    local = "the path of a local file that holds {'state_dict': ...}"
    return f"give {local}, or one of the published {', '.join(published)}" if published else f"give {local}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def import_ptlflow() -> Any:
    """Import ptlflow (seconds, a gigabyte, and a page of notices about extensions, which are dropped)."""
    with quiet():
        import ptlflow
        from loguru import logger

    logger.disable("ptlflow")
    return ptlflow


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what the block prints, warns and logs. Errors pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# Correlation ------------------------------------------------------------------------------------------


def row_correlation(first: torch.Tensor, second: torch.Tensor, patch: int, dilation: int = 1) -> torch.Tensor:
    """Correlation of two feature maps over a square of displacements, one matrix product a row.

    The same as `spatial_correlation_sample` of kernel size 1 (zeros outside the map). A row of the first
    map times a row of the second gives the products of all pairs of columns, of which the needed
    displacements are diagonals, read through strides: nothing is resampled or copied per displacement.

    Args:
        first, second: (B, C, H, W).
        patch: displacements along each axis, odd: -(patch // 2) .. patch // 2, times `dilation` pixels.

    Returns:
        (B, patch, patch, H, W): sums over channels; displacement axes in the order y, x.
    """
    import torch
    import torch.nn.functional as F

    batch, channels, height, width = first.shape
    reach = patch // 2 * dilation
    rows = first.permute(0, 2, 3, 1).reshape(batch * height, width, channels).contiguous()
    padded = F.pad(second, (reach,) * 4).transpose(1, 2).contiguous()  # (B, H + 2 reach, C, W + 2 reach)
    wide = width + 2 * reach
    result = first.new_empty(batch, patch, patch, height, width)
    for i in range(patch):
        shifted = padded[:, i * dilation : i * dilation + height].reshape(batch * height, channels, wide)
        products = torch.bmm(rows, shifted)  # [row, x, x'] with x' counted from -reach
        strides = (height * width * wide, width * wide, wide + 1, dilation)
        diagonals = products.as_strided((batch, height, width, patch), strides)
        result[:, i] = diagonals.permute(0, 3, 1, 2)
    return result


def use_row_correlation(network: torch.nn.Module) -> torch.nn.Module:
    """Replace ptlflow's correlation by `row_correlation`, in this instance only; returns the network.

    Without a compiled extension ptlflow resamples the second map once per displacement: 9 to 10 GB and
    half a minute for a pair of 854 x 480 images in FlowNet2. With the extension nothing is replaced.
    """
    from torch import nn

    with quiet():
        from ptlflow.models.flownet.flownetc import FlowNetC
        from ptlflow.models.flownet.submodules import spatial_correlation_sample
        from ptlflow.utils.correlation import IterSpatialCorrelationSampler, iter_spatial_correlation_sample

    class RowCorrelation(nn.Module):
        def __init__(self, patch: int, dilation: int) -> None:
            super().__init__()
            self.patch, self.dilation = patch, dilation

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return row_correlation(first, second, self.patch, self.dilation)

    for module in list(network.modules()):
        if isinstance(module, FlowNetC) and spatial_correlation_sample is iter_spatial_correlation_sample:
            module.corr = _flownet_correlation
        for name, child in list(module.named_children()):
            if isinstance(child, IterSpatialCorrelationSampler):
                one = {_square(child.kernel_size), _square(child.stride), _square(child.dilation)}
                patch, dilation = _square(child.patch_size), _square(child.dilation_patch)
                if one == {1} and _square(child.padding) == 0 and patch and patch % 2 and dilation:
                    setattr(module, name, RowCorrelation(patch, dilation))
    return network


def _flownet_correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """FlowNetC's correlation: 21 x 21 displacements of 2 pixels, mean over channels. (B, 441, H, W)."""
    return row_correlation(first, second, patch=21, dilation=2).flatten(1, 2) / first.shape[1]


def _square(value: int | tuple[int, int]) -> int | None:
    """The number that stands for both axes, or None if the axes differ."""
    if isinstance(value, int):
        return value
    return value[0] if value[0] == value[1] else None


# Sequences --------------------------------------------------------------------------------------------


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
    params: FlowChoice,
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
    collect(_network_file, calls, 1, f"flow ({params.model})", "sequence", gpu=gpu)


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
        with closing(by_sequence(_dis_chunk, counts, CHUNK, rest, workers, "flow (dis)")) as sequences:
            for name, parts in sequences:
                with ArchiveWriter(out / f"{name}.zip") as writer:
                    for part in parts:
                        writer.join(part)


def _dis_chunk(name: str, span: range, frames: Path, homographies: Path, out: Path, folder: Path) -> Path:
    """Write the part of an archive of flow into `folder`; its path."""
    archive = kept(FrameArchive, frames / f"{name}.zip")
    own = kept(load_homographies, homographies / f"{name}.npz")
    part = folder / f"{name}.{span.start}.zip"
    _write_flow(archive, span, own, dense_inverse_search, PartWriter(part, out / f"{name}.zip"))
    return part


# Files ------------------------------------------------------------------------------------------------


def encode_flow(flow: Float32[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"]) -> bytes:
    """KITTI's flow PNG: 16 bits; R = u * 64 + 32768, G = v * 64 + 32768, B = valid (1 or 0).

    Exact to 1/128 pixel. Flow that is not finite or beyond the encoding's 512 pixels becomes invalid;
    invalid pixels hold zero flow.
    """
    valid = valid & (np.abs(np.nan_to_num(flow, nan=np.inf)) <= LIMIT).all(2)
    steps = np.round(np.where(valid[..., None], flow, 0) * STEP) + 32768
    bgr = np.dstack([valid, steps[..., 1], steps[..., 0]]).astype(np.uint16)
    done, png = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 2])
    if not done:
        raise BackdropError(f"cannot encode a flow field of shape {flow.shape} as PNG")
    return png.tobytes()


def decode_flow(png: bytes) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """The flow (pixels, zero where invalid) and the validity in a flow PNG.

    Raises:
        BackdropError: the bytes are no 16-bit PNG of three channels.
    """
    bgr = decode_stored(png)
    if bgr is None or bgr.dtype != np.uint16 or bgr.ndim != 3 or bgr.shape[2] != 3:
        raise BackdropError("no flow PNG (16 bits, three channels)")
    valid = bgr[..., 0] > 0
    flow = (bgr[..., 2:0:-1].astype(np.float32) - 32768) / np.float32(STEP)
    return np.where(valid[..., None], flow, np.float32(0)), valid


class FlowArchive:
    """The flow of a sequence, as `flow_sequence` wrote it. Picklable: each process opens its own file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._owner = -1
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._count = sum(name.endswith(".png") for name in archive.namelist())
        except FileNotFoundError:
            raise BackdropError(f"{self.path} does not exist: run the stage flow") from None
        except ZIP_FAULTS as error:
            raise BackdropError(f"{self.path} is no archive ({error}): run the stage flow again") from None

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_owner": -1}

    def read(self, t: int) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
        """Flow and validity of frame t.

        Raises:
            BackdropError: the entry is missing or damaged.
        """
        try:
            if self._zip is None or self._owner != os.getpid():  # a forked child must not share the file's position
                self._zip, self._owner = zipfile.ZipFile(self.path), os.getpid()
            return decode_flow(self._zip.read(f"{t:06d}.png"))  # by its name: a damaged one must not shift the others
        except (BackdropError, *ZIP_FAULTS) as error:
            raise BackdropError(f"{self.path}, frame {t}: {error}: run the stage flow again") from None

    def flow(self, t: int) -> Float32[np.ndarray, "h w 2"]:
        """Flow of frame t in pixels, zero where invalid."""
        return self.read(t)[0]

    def valid(self, t: int) -> Bool[np.ndarray, "h w"]:
        """True where the flow of frame t is valid."""
        return self.read(t)[1]


def read_flow(path: str | Path) -> FlowArchive:
    """Open the flow archive of a sequence."""
    return FlowArchive(path)


# Pictures ---------------------------------------------------------------------------------------------


def flow_image(flow: Float32[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"]) -> torch.Tensor:
    """The papers' flow image I_f: direction as hue, magnitude as saturation, RGB.

    The magnitude is divided by its 99th percentile over the valid pixels (at least `NOISE`) and
    clipped there, so that a few wild pixels do not fade all others. Zero and invalid flow are white.

    Returns:
        (3, H, W) float32 in [0, 1].
    """
    import torch
    from torchvision.utils import flow_to_image

    speed = np.linalg.norm(flow, axis=2) * valid
    largest = max(NOISE, float(np.percentile(speed[valid], 99)) if valid.any() else 0.0)
    scaled = flow * (np.minimum(1, largest / np.maximum(speed, 1e-6)) * valid)[..., None] / largest
    # flow_to_image divides by the largest magnitude it sees: a column of magnitude 1 fixes that to 1.
    framed = np.pad(scaled.astype(np.float32), ((0, 0), (0, 1), (0, 0)))
    framed[:, -1, 0] = 1
    colors = flow_to_image(torch.from_numpy(framed).permute(2, 0, 1).contiguous())
    return colors[..., :-1].contiguous().float() / 255


def magnitude(flow: Float32[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Speed against the background in pixels; zero where invalid.

    The median flow of the valid pixels is taken off first: what is left of the camera's motion when
    the homography is a little off.
    """
    if not valid.any():
        return np.zeros(valid.shape, np.float32)
    return (np.linalg.norm(flow - np.median(flow[valid], axis=0), axis=2) * valid).astype(np.float32)
