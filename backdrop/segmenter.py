"""Inference: a single image -> box, cell probabilities, soft mask. No video, no inpainter.

Cell probabilities are the detector's. Without a student, so is the box, and the mask is the synthesis network's. With
one, the mask is the student's, and the box is the detector's drawn tight around the mask inside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from backdrop import datasets, spatial
from backdrop.detector import Detector, Proposals
from backdrop.encoder import normalize
from backdrop.errors import BackdropError
from backdrop.params import DetectorParams, SegmentParams, SynthesisParams
from backdrop.synthesis import SynthesisNetwork
from backdrop.unet import Student
from backdrop.video import ArchiveWriter, FrameArchive, encode_png
from backdrop.weights import load_network


class Prediction(NamedTuple):
    """What is predicted for one image of H x W pixels.

    mask: (H, W) float32 in [0, 1], 1 = foreground. box: (4,) cx, cy, w, h in [-1, 1] image coordinates.
    p: (8, 8) cell probabilities, sum 1. cell: argmax of p, row by row.
    """

    mask: np.ndarray
    box: np.ndarray
    p: np.ndarray
    cell: int


class Segmenter:
    """D, S and (after self-training) the student of a model folder, ready to predict.

    Example:
        >>> segmenter = Segmenter.load("models/joint")
        >>> mask = segmenter.predict(image).mask > 0.5
    """

    def __init__(
        self,
        detector: Detector,
        synthesis: SynthesisNetwork,
        size: tuple[int, int],
        device: torch.device,
        student: Student | None = None,
    ) -> None:
        self.student = student
        self.detector = detector.eval().to(device)
        self.synthesis = synthesis.eval().to(device)
        self.size, self.device = size, device

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Segmenter:
        """Read a model folder that stage train or stage student wrote.

        Raises:
            BackdropError: the folder is no model folder, its weights do not fit its config, or there is no GPU.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackdropError(f"device {device}: PyTorch sees no GPU here; set compute.device to auto or cpu")
        folder = Path(folder)
        state, config = load_network(folder)
        try:
            detector = Detector(DetectorParams.model_validate(config["detector"]), "none")
            synthesis = SynthesisNetwork(SynthesisParams.model_validate(config["synthesis"]), "none")
            for name, network in (("detector", detector), ("synthesis", synthesis)):
                network.load_state_dict(
                    {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
                )
            width, height = config["size"]
            chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
            student = None
            if "student" in config:
                own = {k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")}
                student = Student.build(config["student"], own, chosen)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BackdropError(f"{folder}: weights and config.json do not fit: {str(error).splitlines()[0]}") from None
        return cls(detector, synthesis, (width, height), chosen, student)

    def predict(self, image: np.ndarray) -> Prediction:
        """Box and mask of one image.

        Args:
            image: (H, W, 3) uint8, RGB.
        """
        return self.predict_batch([image])[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """The same for several images, which may differ in size. Each is segmented by itself."""
        x, proposals = self._propose(images)
        cell, box = proposals.best()
        if self.student is not None:
            masks = self.student.masks(images)
        else:
            mask = self.synthesis(spatial.crop(x, box, self.synthesis.params.crop)).mask
            masks = [
                spatial.paste(mask[i : i + 1], box[i : i + 1], (image.shape[0], image.shape[1]))[0, 0]
                .clamp(0, 1)
                .cpu()
                .numpy()
                for i, image in enumerate(images)
            ]
        boxes = box.cpu().numpy()
        if self.student is not None:
            boxes = np.stack([tighten(own, mask) for own, mask in zip(boxes, masks, strict=True)])
        grid = self.detector.grid
        p = proposals.p.reshape(-1, grid, grid).cpu().numpy()
        return [Prediction(masks[i], boxes[i], p[i], int(cell[i])) for i in range(len(images))]

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The detector alone: the chosen boxes (B, 4), and the probabilities of their cells (B,)."""
        proposals = self._propose(images)[1]
        return proposals.best()[1].cpu().numpy(), proposals.p.amax(dim=1).cpu().numpy()

    def _propose(self, images: Sequence[np.ndarray]) -> tuple[torch.Tensor, Proposals]:
        small = [cv2.resize(image, self.size, interpolation=cv2.INTER_AREA) for image in images]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(self.device)
        x = normalize(pixels.float() / 255).contiguous(memory_format=torch.channels_last)
        return x, self.detector(x)


def tighten(box: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The extent of what a soft mask shows (above 0.5) inside a box; the box itself where it shows nothing there.

    Args:
        box: (4,) cx, cy, w, h in [-1, 1] image coordinates. mask: (H, W) in [0, 1].
    """
    height, width = mask.shape
    left, right = (np.array([box[0] - box[2] / 2, box[0] + box[2] / 2]) + 1) / 2 * width
    top, bottom = (np.array([box[1] - box[3] / 2, box[1] + box[3] / 2]) + 1) / 2 * height
    x0, y0 = max(0, int(left)), max(0, int(top))
    inside = (mask[y0 : max(y0, int(np.ceil(bottom))), x0 : max(x0, int(np.ceil(right)))] > 0.5).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(inside) if inside.size else (0, 0, 0, 0)
    if not w * h:
        return box
    cx, cy = (x0 + x + w / 2) / width * 2 - 1, (y0 + y + h / 2) / height * 2 - 1
    return np.array([cx, cy, 2 * w / width, 2 * h / height], box.dtype)


def segment_sequence(segmenter: Segmenter, frames: FrameArchive, path: Path, batch: int) -> None:
    """Predict every frame of a sequence and write its archive (soft masks as 8-bit PNG, `predictions.npz`)."""
    boxes, cells, probabilities = [], [], []
    with ArchiveWriter(path) as writer:
        for prediction, t in _stream(segmenter, frames, batch):
            writer.add(f"{t:06d}.png", encode_png((prediction.mask * 255).round().astype(np.uint8)))
            boxes.append(prediction.box)
            cells.append(prediction.cell)
            probabilities.append(prediction.p)
        writer.add("predictions.npz", _npz(box=np.stack(boxes), cell=np.array(cells), p=np.stack(probabilities)))


def _npz(**arrays: np.ndarray) -> bytes:
    """Arrays as the bytes of an npz whose content depends on the arrays alone (np.savez writes the time)."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())
    return buffer.getvalue()


def _stream(segmenter: Segmenter, frames: FrameArchive, batch: int) -> Iterator[tuple[Prediction, int]]:
    for start in range(0, len(frames), batch):
        steps = range(start, min(start + batch, len(frames)))
        yield from zip(segmenter.predict_batch([frames.image(t) for t in steps]), steps, strict=True)


def segment_all(
    model_dir: Path,
    frames_dir: Path,
    out_dir: Path,
    params: SegmentParams,
    workers: int,
    device: str,
    choose_threshold: Callable[[Path, Path], tuple[float, str]],
) -> dict[str, Any]:
    """Segment every sequence that is not for training alone; choose the threshold and write threshold.json.

    Args:
        choose_threshold: (frames_dir, predictions_dir) -> (threshold, what it was chosen on), by validation
            sequences with ground truth; asked only when `params.threshold` is null.
    """
    Segmenter.load(model_dir, device)  # a wrong folder is named once, not by every process
    index = datasets.read_index(frames_dir, usable=True)
    names = index[index["split"] != "train"]["sequence"].tolist()
    if not names:
        raise BackdropError(f"{frames_dir}/index.csv lists no sequence to segment: all are in the training split")
    out_dir.mkdir(parents=True, exist_ok=True)
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    jobs = 1 if cuda else min(workers, len(names))
    tasks = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_segment_one)(model_dir, frames_dir, out_dir, name, params.batch, device, jobs) for name in names
    )
    faults = [fault for fault in tqdm(tasks, total=len(names), desc="segmenting", unit="sequence") if fault]
    if faults:
        raise faults[0]
    if params.threshold is not None:
        chosen: tuple[float, str] = (params.threshold, "params")
    else:
        chosen = choose_threshold(frames_dir, out_dir)
    result = {"threshold": float(chosen[0]), "chosen_on": chosen[1]}
    (out_dir / "threshold.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _segment_one(
    model_dir: Path, frames_dir: Path, out_dir: Path, name: str, batch: int, device: str, jobs: int
) -> BackdropError | None:
    """A fault is returned: were it raised, joblib would kill the other processes in the middle of their files."""
    if jobs > 1:
        torch.set_num_threads(1)
    try:
        segmenter = Segmenter.load(model_dir, device)
        segment_sequence(segmenter, FrameArchive(frames_dir / f"{name}.zip"), out_dir / f"{name}.zip", batch)
    except BackdropError as fault:
        return fault
    return None
