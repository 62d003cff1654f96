"""What the training loops share: frames, devices, checkpoints, curves.

Every random choice of an iteration is a function of (seed, iteration), so that a run taken up from a
checkpoint draws exactly what the undisturbed run draws.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import sys
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch._functorch.config
from dvclive import Live
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from backdrop import datasets, ranks
from backdrop.encoder import normalize
from backdrop.errors import BackdropError, WriteError
from backdrop.flow import FlowArchive, flow_image
from backdrop.params import ComputeParams
from backdrop.video import FrameArchive, writing

_CACHE_LIMIT = 8 * 2**30  # bytes of disk that decoded training frames may take, in each process
_SEED_STRIDE = 10_000_019  # prime, so that seeds of different runs do not share streams


class Batch(NamedTuple):
    """The frames of an iteration.

    image, flow, background: (B, 3, H, W) uint8. known: (B, 1, H, W) uint8, 1 where the background is known.
    flow_valid: (B,) bool. index: (B,) positions in `TrainingFrames.items`.
    """

    image: Tensor
    flow: Tensor
    background: Tensor
    known: Tensor
    flow_valid: Tensor
    index: Tensor  # type: ignore[assignment]


BackgroundOf = Callable[[FrameArchive, int], tuple[np.ndarray, np.ndarray]]
"""Frame t of an archive -> its background at training resolution, and where it is known."""


class TrainingFrames(Dataset):
    """The training frames at training resolution, with their flow images.

    A frame is decoded when it is first asked for and then kept in a scratch file on disk (not in memory),
    as long as all of them fit `_CACHE_LIMIT`.

    Args:
        size: (W, H) of the training resolution.
        flow_dir: folder of the flow archives; None: flow images are zero and invalid.
        background: of a frame; None: nowhere known.
    """

    def __init__(
        self, frames_dir: Path, flow_dir: Path | None, size: tuple[int, int], background: BackgroundOf | None = None
    ) -> None:
        self.size, self.background = size, background
        index = datasets.read_index(frames_dir, usable=True)
        rows = index[index["split"].isin(["train", "all"])]
        if rows.empty:
            raise BackdropError(f"{frames_dir}/index.csv lists no usable training sequence; see its `reason` column")
        self.frames = [FrameArchive(frames_dir / f"{name}.zip") for name in rows["sequence"]]
        self.flows = [FlowArchive(flow_dir / f"{name}.zip") for name in rows["sequence"]] if flow_dir else None
        self.items = [(s, t) for s, archive in enumerate(self.frames) for t in range(len(archive))]
        self._scratch: np.memmap | None = None
        width, height = size
        shape = (len(self.items), 10 * height * width + 2)
        if math.prod(shape) <= _CACHE_LIMIT:
            self._scratch = _scratch(shape)

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """ "sequence:frame" for messages."""
        sequence, t = self.items[index]
        return f"{Path(self.frames[sequence].path).stem}:{t}"

    def fingerprint(self) -> str:
        """A hash of all frames and flow fields, by the check sums that their archives hold."""
        digest = hashlib.sha256()
        archives: list[FrameArchive | FlowArchive] = [*self.frames, *(self.flows or [])]
        for source in archives:
            with zipfile.ZipFile(source.path) as archive:
                for entry in archive.infolist():
                    digest.update(f"{entry.filename} {entry.CRC:08x} {entry.file_size}\n".encode())
        return digest.hexdigest()

    def _decode(self, index: int) -> np.ndarray:
        sequence, t = self.items[index]
        image = cv2.resize(self.frames[sequence].image(t), self.size, interpolation=cv2.INTER_AREA)
        flow, known = np.full_like(image, 255), False
        if self.flows is not None:
            vectors, valid = self.flows[sequence].read(t)
            known = bool(valid.mean() > 0.5)
            if known:
                colored = (flow_image(vectors, valid).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
                flow = cv2.resize(colored, self.size, interpolation=cv2.INTER_AREA)
        behind, seen = np.zeros_like(image), np.zeros(image.shape[:2], np.uint8)
        if self.background is not None:
            behind, seen = self.background(self.frames[sequence], t)
        planes = [picture.transpose(2, 0, 1).ravel() for picture in (image, flow, behind)]
        # The last byte says that the row is whole: written last, so that another process never reads half a row.
        return np.concatenate([*planes, seen.ravel().astype(np.uint8), [known, 1]])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        row = self._scratch[index] if self._scratch is not None else None
        if row is None or not row[-1]:
            row = self._decode(index).astype(np.uint8)
            if self._scratch is not None:
                self._scratch[index, :-1] = row[:-1]
                self._scratch[index, -1] = 1
        planes = np.array(row[:-2]).reshape(10, self.size[1], self.size[0])
        return planes[:3], planes[3:6], planes[6:9], planes[9:], np.bool_(row[-2]), np.int64(index)

    def batches(self, seed: int, start: int, stop: int, size: int, workers: int) -> Iterator[Batch]:
        """This rank's part of the batches of iterations start..stop-1; each a function of (seed, iteration) alone.

        Raises:
            BackdropError: the batch cannot be divided among the ranks.
        """
        if size % ranks.world():
            raise BackdropError(
                f"a batch of {size} cannot be divided among {ranks.world()} processes: choose a batch that is a "
                f"multiple of compute.devices x compute.nodes"
            )
        count = size // ranks.world()
        mine = slice(ranks.rank() * count, (ranks.rank() + 1) * count)
        order = (self._order(seed, iteration, size)[mine] for iteration in range(start, stop))
        loader = DataLoader(self, batch_sampler=order, num_workers=workers, pin_memory=torch.cuda.is_available())
        for columns in loader:
            yield Batch(*columns)

    def _order(self, seed: int, iteration: int, size: int) -> list[int]:
        """Frames of one iteration: consecutive pieces of one shuffle an epoch."""
        picked: list[int] = []
        position = iteration * size
        while len(picked) < size:
            epoch, offset = divmod(position, len(self))
            order = _shuffled(seed, epoch, len(self))
            piece = order[offset : offset + size - len(picked)]
            picked += piece.tolist()
            position += len(piece)
        return picked


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch; kept, since each of its iterations asks, and millions of frames take a while."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _scratch(shape: tuple[int, int]) -> np.memmap | None:
    """Zeros in a file without a name, its space taken at once: a map that outgrows the disk kills the process.

    None, with a warning, where there is no room.
    """
    try:
        handle = tempfile.TemporaryFile(prefix="backdrop-")  # noqa: SIM115 - lives as long as the map
        os.posix_fallocate(handle.fileno(), 0, math.prod(shape))
    except OSError as fault:
        size = f"{math.prod(shape) / 1e6:.0f} MB of decoded frames"
        tqdm.write(f"warning: no room for {size} ({fault.strerror or fault}); slower without, TMPDIR names the folder")
        return None
    return np.memmap(handle, dtype=np.uint8, mode="r+", shape=shape)


def generator_at(seed: int, iteration: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one iteration."""
    return torch.Generator(device).manual_seed(seed * _SEED_STRIDE + iteration)


def run_key(name: str, sections: Sequence[Any], *files: Path) -> str:
    """A key that changes with any parameter, file or line of the library: old checkpoints are then not taken."""
    digest = hashlib.sha256(name.encode())
    for section in sections:
        digest.update(repr(section).encode())
    library = {module.__file__ for name, module in sys.modules.items() if name.startswith("backdrop.")}
    for path in (*files, *sorted(Path(file) for file in library if file)):
        digest.update(path.read_bytes())
    return f"{name}-{digest.hexdigest()[:16]}"


class Checkpoints:
    """The last state of a run, outside the stage's outputs (DVC deletes those before a run).

    A state is written to a temporary name and renamed, so that the previous one stays until the new one is whole.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.pt"

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None; the first rank reads, all get it."""
        return ranks.broadcast(self._read() if ranks.rank() == 0 else None)

    def _read(self) -> dict[str, Any] | None:
        """A file that cannot be read is set aside, not trusted."""
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:
            self.path.rename(self.path.with_suffix(".damaged"))
            tqdm.write(f"warning: {self.path} cannot be read ({error}); set aside, training starts anew")
            return None

    def save(self, state: Mapping[str, Any]) -> None:
        """By the first rank alone."""
        if ranks.rank():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        packed = io.BytesIO()  # writing itself, torch puts an error of its own in the place of the file's
        torch.save(dict(state), packed)
        try:
            with writing(self.path):
                with part.open("wb") as file:
                    file.write(packed.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self.path)
        except WriteError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


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


def to_images(fabric: Fabric, pixels: Tensor) -> Tensor:
    """uint8 pixels on the host -> normalized images on the device."""
    pixels = pixels.to(fabric.device, non_blocking=True)
    return normalize(pixels.float() / 255).contiguous(memory_format=torch.channels_last)


def loader_workers(fabric: Fabric) -> int:
    """Loader processes: the scratch file makes loading so cheap on a CPU that a process would only take its core."""
    if fabric.device.type != "cuda":
        return 0
    beside = getattr(fabric.strategy, "num_processes", 1)  # on this machine, whoever started them
    return min(8, max(1, (os.cpu_count() or 1) // beside - 1))


def cosine(iteration: int, total: int, enabled: bool) -> float:
    """Factor of the learning rate: 1 down to 0 along half a cosine, or 1."""
    return 0.5 * (1 + math.cos(math.pi * iteration / total)) if enabled else 1.0


class Learner:
    """The optimizer's step, with the stop at numbers that are none: the same for every training loop.

    A GPU is not waited for in each iteration. Whether loss and gradients are finite is computed there; where they are
    not, the fused optimizer leaves the weights alone, and the host reads it two iterations later. On a processor it is
    read at once.

    Args:
        network: what is trained; `model` is the same for calls, on the device and shared among the processes.
        optimizer: on a GPU, a fused one.
        compiled: parts for `torch.compile`.
        methods: of the network, to be called as the network is.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        compiled: Sequence[nn.Module] = (),
        methods: Sequence[str] = (),
    ) -> None:
        self.fabric, self.network, self._own = fabric, network, optimizer
        ranks.share_batch_norm(network, fabric.device)
        compile_parts(compiled)
        self.model, self.optimizer = fabric.setup(network, optimizer)
        for method in methods:
            self.model.mark_forward_method(method)
        self.lag = 2 if fabric.device.type == "cuda" else 0
        self._pending: deque[_Watched] = deque()

    def learn(
        self,
        iteration: int,
        terms: Mapping[str, Tensor],
        loss: Tensor,
        rates: Sequence[float],
        names: Callable[[], str],
    ) -> None:
        """One step by the gradient of `loss`.

        Args:
            terms: scalars by name, looked at for numbers that are none.
            rates: the learning rates of the optimizer's groups.
            names: the batch's frames, for a message.

        Raises:
            BackdropError: a term or a gradient of an iteration, at most `lag` before this one, is not finite: names
                the iteration, the term or the parameter, and the frames. No weight was changed by it.
        """
        self.fabric.backward(loss)
        self._watch(iteration, terms, names)
        self.settle(self.lag)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # now: gradients need not lie beside the next pass's activations

    def _watch(self, iteration: int, terms: Mapping[str, Tensor], names: Callable[[], str]) -> None:
        gradients = {name: own.grad for name, own in self.network.named_parameters() if own.grad is not None}
        norms = torch._foreach_norm(list(gradients.values()))  # type: ignore[arg-type]
        values = torch.stack([*(value.detach().float() for value in terms.values()), *(n.float() for n in norms)])
        event = None
        if self.lag:
            self._own.found_inf = (~values.isfinite().all()).float()  # type: ignore[attr-defined] # fused optimizers ask
        if self.lag and values.is_cuda:
            values = values.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append(_Watched(iteration, list(terms), list(gradients), values, event, names))

    def settle(self, leave: int = 0) -> None:
        """Look at the numbers of all iterations but the last `leave`; before anything is saved, at those of all.

        Raises:
            BackdropError: see `learn`.
        """
        while len(self._pending) > leave:
            self._pending.popleft().check()


class _Watched(NamedTuple):
    """The numbers of an iteration: the terms of the loss, then the norms of the gradients."""

    iteration: int
    terms: list[str]
    gradients: list[str]
    values: Tensor
    event: torch.cuda.Event | None
    names: Callable[[], str]

    def check(self) -> None:
        if self.event is not None:
            self.event.synchronize()
        finite = self.values.isfinite()
        if finite.all():
            return
        worst = int((~finite).nonzero()[0, 0])
        part = "this process's part of the batch" if ranks.world() > 1 else "the batch"
        frames = f"frames of {part}: {self.names()}"
        if worst < len(self.terms):
            raise BackdropError(
                f"iteration {self.iteration}: the loss term {self.terms[worst]} is {float(self.values[worst])}; "
                f"{frames}. "
                f"Look at these frames, or lower train.rate (or inpainter.rate), and run again"
            )
        raise BackdropError(
            f"iteration {self.iteration}: the gradient of {self.gradients[worst - len(self.terms)]} is not finite; "
            f"{frames}{' (the fault may lie in that of another)' if ranks.world() > 1 else ''}. "
            f"Look at these frames, or lower the rate of this stage, and run again: it goes on from before "
            f"this iteration"
        )


def compile_parts(parts: Sequence[nn.Module]) -> None:
    """`torch.compile` of each in place; names and state stay. The first iteration then takes minutes."""
    if parts:
        # A gradient is taken within the forward pass as well (`model.without_gradient_to`): buffers are needed twice.
        torch._functorch.config.donated_buffer = False
    for part in parts:
        part.compile()


def frame_names(data: TrainingFrames, batch: Batch) -> str:
    return ", ".join(data.name(int(i)) for i in batch.index)


def progress(total: int, start: int, title: str) -> tqdm:
    """A bar over the iterations, of the first rank."""
    return tqdm(total=total, initial=start, desc=title, unit="it", mininterval=2, disable=ranks.rank() > 0)


@contextmanager
def open_live(folder: Path, history: Sequence[Mapping[str, float]]) -> Iterator[Live | None]:
    """DVCLive's curves in `folder`; what a resumed run had logged is logged again. None but on the first rank."""
    if ranks.rank():
        yield None
        return
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)
    try:
        for row in history:
            _write_row(live, row)
        yield live
    finally:
        with writing(folder):
            live.end()


def _write_row(live: Live, row: Mapping[str, float]) -> None:
    with writing(live.dir):
        live.step = int(row["iteration"])
        for key, value in row.items():
            if key != "iteration":
                live.log_metric(key, value)
        live.make_summary()


def log_row(live: Live | None, row: dict[str, float], history: list) -> None:
    """One point of the curves, its numbers averaged over the ranks, each of which must call."""
    floats = [key for key, value in row.items() if isinstance(value, float)]
    means = ranks.means([row[key] for key in floats])
    row = row | dict(zip(floats, means, strict=True))
    history.append(row)
    if live is not None:
        _write_row(live, row)
