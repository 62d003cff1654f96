"""The training frames, batched: what every training loop reads.

Every random choice of an iteration is a function of (seed, iteration), so that a run taken up from a checkpoint draws
exactly what the undisturbed run draws.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch._functorch.config
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.index import read_index
from backdrop.io.masks import resize_region
from backdrop.learn import ranks
from backdrop.motion.flow_field import FlowArchive, flow_image
from backdrop.networks.encoder import normalize
from backdrop.run.space import take_room

CACHE_LIMIT = 8 * 2**30  # bytes of disk that decoded training frames may take, in each process


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

    A frame is decoded when it is first asked for. Then it lies in a scratch file on disk (not in memory),
    as long as all of them fit `CACHE_LIMIT`.

    Args:
        size: (W, H) of the training resolution.
        flow_dir: folder of the flow archives; None: flow images are zero and invalid.
        background: of a frame; None: nowhere known. Outside of the region of interest it is the frame itself.
    """

    def __init__(
        self, frames_dir: Path, flow_dir: Path | None, size: tuple[int, int], background: BackgroundOf | None = None
    ) -> None:
        self.size, self.background = size, background
        index = read_index(frames_dir, usable=True)
        rows = index[index["split"].isin(["train", "all"])]
        if rows.empty:
            raise BackdropError(f"{frames_dir}/index.csv lists no usable training sequence; see its `reason` column")
        self.frames = [FrameArchive(frames_dir / f"{name}.zip") for name in rows["sequence"]]
        self.flows = [FlowArchive(flow_dir / f"{name}.zip") for name in rows["sequence"]] if flow_dir else None
        self.items = [(s, t) for s, archive in enumerate(self.frames) for t in range(len(archive))]
        self._scratch: np.memmap | None = None
        width, height = size
        shape = (len(self.items), 10 * height * width + 2)
        if math.prod(shape) <= CACHE_LIMIT:
            self._scratch = _scratch_map(shape)

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
        frames = self.frames[sequence]
        image = cv2.resize(frames.image(t), self.size, interpolation=cv2.INTER_AREA)
        flow, known = np.full_like(image, 255), False
        if self.flows is not None:
            vectors, valid = self.flows[sequence].read(t)
            region = None if frames.region is None else resize_region(frames.region, (valid.shape[1], valid.shape[0]))
            known = bool((valid if region is None else valid[region]).mean() > 0.5)
            if known:
                colored = (flow_image(vectors, valid).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
                flow = cv2.resize(colored, self.size, interpolation=cv2.INTER_AREA)
        behind, seen = np.zeros_like(image), np.zeros(image.shape[:2], np.uint8)
        if self.background is not None:
            behind, seen = self.background(frames, t)
            if frames.region is not None:
                # Outside, the image explains itself: a box there gains nothing, whatever moves in it.
                region = resize_region(frames.region, self.size)
                behind, seen = np.where(region[..., None], behind, image), seen | ~region
        planes = [picture.transpose(2, 0, 1).ravel() for picture in (image, flow, behind)]
        # The last byte says that the row is complete. It is written last: another process never reads half a row.
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
    """The order of an epoch. Cached: each of its iterations asks, and to shuffle millions of frames takes a while."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _scratch_map(shape: tuple[int, int]) -> np.memmap | None:
    """Zeros in a file without a name, its space taken at once: a map that outgrows the disk kills the process.

    None, with a warning, where there is no room.
    """
    try:
        handle = tempfile.TemporaryFile(prefix="backdrop-")  # noqa: SIM115 - lives as long as the map
        take_room(handle, math.prod(shape))
    except OSError as fault:
        size = f"{math.prod(shape) / 1e6:.0f} MB of decoded frames"
        tqdm.write(f"warning: no room for {size} ({fault.strerror or fault}); slower without, TMPDIR names the folder")
        return None
    return np.memmap(handle, dtype=np.uint8, mode="r+", shape=shape)


def frame_names(data: TrainingFrames, batch: Batch) -> str:
    """The frames of a batch, for a message."""
    return ", ".join(data.name(int(i)) for i in batch.index)


def to_images(fabric: Fabric, pixels: Tensor) -> Tensor:
    """uint8 pixels on the host -> normalized images on the device."""
    pixels = pixels.to(fabric.device, non_blocking=True)
    return normalize(pixels.float() / 255).contiguous(memory_format=torch.channels_last)
