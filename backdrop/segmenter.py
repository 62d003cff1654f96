"""Inference: a single image -> box, cell probabilities, soft mask. No video, no inpainter.

Cell probabilities are the detector's. Without a student, so is the box, and the mask is the synthesis network's. With
one, the mask is the student's, and the box is the extent of the student's subject; the detector's where it shows none.
The same folder then also gives what detector and synthesis network find alone: the papers' method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import TypeAdapter

from backdrop import datasets, spatial
from backdrop.chunks import by_sequence, frame_counts, kept
from backdrop.detector import Detector
from backdrop.encoder import normalize
from backdrop.errors import BackdropError
from backdrop.masks import BOXES, box_from_mask, copy_files, entry, write_threshold
from backdrop.params import DetectorParams, SegmentParams, Size, SynthesisParams
from backdrop.processes import device_there
from backdrop.synthesis import SynthesisNetwork
from backdrop.unet import SPECK, Student, subject_component
from backdrop.video import (
    RGB,
    ArchiveWriter,
    FrameArchive,
    PartWriter,
    decode_image,
    decode_video,
    encode_png,
    parts_folder,
    rgb,
)
from backdrop.weights import load_network, with_weights

BOX_LEVEL = 0.3
"""A shipped box holds what the student's mask shows above this: faint limbs belong to it. On three validation videos
its average precision was .92; at 0.5 it was .76, and .61 where D's box had to meet the subject."""
CHUNK = 32
"""Frames a task, or the whole batches that are in them: which frames share a batch does not depend on chunks."""


ImageLike = np.ndarray | torch.Tensor | Image.Image | str | Path


def to_rgb(image: ImageLike) -> RGB:
    """An image as (H, W, 3) uint8 RGB.

    Args:
        image: an array (H, W, 3), (H, W, 4) with alpha, or (H, W) gray, of uint8; a tensor (3, H, W) of uint8 or of
            floats in [0, 1]; a Pillow image; the path of an image file. Rotation that Exif asks for is done.

    Raises:
        BackdropError: anything else, or a file that is no image.
    """
    if isinstance(image, str | Path):
        return decode_image(Path(image))
    if isinstance(image, Image.Image):
        return rgb(ImageOps.exif_transpose(image), "the image")
    if isinstance(image, torch.Tensor):
        fits = image.ndim == 3 and len(image) == 3 and image.numel() and not image.is_complex()
        if not fits or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise BackdropError(
                f"an image tensor is (3, H, W) of uint8 or float, not {tuple(image.shape)} {image.dtype}"
            )
        if image.is_floating_point():
            if not bool(((image >= 0) & (image <= 1)).all()):
                raise BackdropError("an image tensor of floats lies in [0, 1] (not normalized, not 0 to 255)")
            image = (image * 255).round().to(torch.uint8)
        return image.permute(1, 2, 0).contiguous().cpu().numpy()
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8 and pixels.size:
        if pixels.ndim == 2:
            return np.repeat(pixels[:, :, None], 3, axis=2)
        if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
            return np.ascontiguousarray(pixels[:, :, :3])
    raise BackdropError(f"an image array is (H, W, 3) of uint8, RGB, not {pixels.shape} of {pixels.dtype}")


class Prediction(NamedTuple):
    """What is predicted for one image of H x W pixels.

    mask: (H, W) float32 in [0, 1], 1 = foreground. box: (4,) cx, cy, w, h in [-1, 1] image coordinates.
    p: (8, 8) cell probabilities, sum 1. cell: argmax of p, row by row. boxes: (8, 8, 4), D's box of each cell.
    presence: in [0, 1], how sure the mask is of any pixel; low where no subject is to be seen (`presence`).
    """

    mask: np.ndarray
    box: np.ndarray
    p: np.ndarray
    cell: int
    boxes: np.ndarray
    presence: float


class _Found(NamedTuple):
    """What D finds in a batch: normalized images at its size (B, 3, h, w), and of each the chosen box (B, 4) and cell
    (B,), and of all its cells probabilities (B, C) and boxes (B, C, 4)."""

    x: torch.Tensor
    box: torch.Tensor
    cell: torch.Tensor
    p: torch.Tensor
    boxes: torch.Tensor


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
            of = {
                part: {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
                for part in ("detector", "synthesis", "student")
            }
            own_d = DetectorParams.model_validate(config["detector"])
            own_s = SynthesisParams.model_validate(config["synthesis"])
            detector = with_weights(lambda: Detector(own_d, "none"), of["detector"])
            synthesis = with_weights(lambda: SynthesisNetwork(own_s, "none"), of["synthesis"])
            width, height = TypeAdapter(Size).validate_python(config["size"])
            chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
            student = None
            if "student" in config:
                student = Student.build(config["student"], of["student"], chosen)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BackdropError(f"{folder}: weights and config.json do not fit: {str(error).splitlines()[0]}") from None
        return cls(detector, synthesis, (width, height), chosen, student)

    @property
    def box_level(self) -> float:
        """The shipped box holds what the mask shows above it: `BOX_LEVEL`, or the student's threshold if lower."""
        own = None if self.student is None else self.student.threshold
        return BOX_LEVEL if own is None else min(BOX_LEVEL, own)

    def predict(self, image: ImageLike, subjects: int | None = None) -> Prediction:
        """Box and mask of one image.

        Args:
            image: (H, W, 3) uint8 RGB, or whatever else `to_rgb` takes: a path, a Pillow image, a tensor.
            subjects: up to so many parts make the mask; None: as many as the student was trained for. Without a
                student, a mask has the one subject that D chose.

        Raises:
            BackdropError: it is none of these.
        """
        return self.predict_batch([image], subjects)[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[ImageLike], subjects: int | None = None) -> list[Prediction]:
        """The same for several images, which may differ in size. Each is segmented by itself."""
        pictures = [to_rgb(image) for image in images]
        if not pictures:
            return []
        found = self._detect(pictures)
        if self.student is None:
            return self._by_synthesis(pictures, found)
        return self._by_student(pictures, found, subjects)

    def stream(
        self, video: str | Path, every: int = 1, batch: int = 8, subjects: int | None = None
    ) -> Iterator[tuple[int, float, RGB, Prediction]]:
        """The frames of a video as they are decoded: number in the file, seconds since the first, image, prediction.

        Each frame is segmented by itself; a batch of them is held at a time, whatever the video's length.

        Args:
            video: the file. every: frames 0, every, 2 every, ...

        Raises:
            BackdropError: it cannot be read; what came before the fault has been given.
        """
        frames = decode_video(Path(video), every)
        while some := list(islice(frames, batch)):
            images = [np.ascontiguousarray(image) for _, _, image in some]
            for (number, time, _), image, found in zip(some, images, self.predict_batch(images, subjects), strict=True):
                yield number, time, image, found

    @torch.inference_mode()
    def predict_both(self, images: Sequence[np.ndarray]) -> list[tuple[Prediction, Prediction]]:
        """For each image what `predict` gives, and what D and S find without the student; D runs once.

        D's box is as it is in the second, not drawn to any mask. Without a student, both are the same.
        """
        found = self._detect(images)
        alone = self._by_synthesis(images, found)
        return list(zip(alone if self.student is None else self._by_student(images, found), alone, strict=True))

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The detector alone: the chosen boxes (B, 4), and the probabilities of their cells (B,)."""
        found = self._detect(images)
        return found.box.cpu().numpy(), found.p.amax(dim=1).cpu().numpy()

    @torch.inference_mode()
    def masks_at(self, image: ImageLike, boxes: np.ndarray) -> np.ndarray:
        """What S makes of given boxes of an image: (K, H, W) float32 in [0, 1], each mask 0 outside its box.

        Args:
            boxes: (K, 4) cx, cy, w, h in [-1, 1] image coordinates.
        """
        picture = to_rgb(image)
        x = self._input([picture]).expand(len(boxes), -1, -1, -1)
        return np.stack(self._pasted([picture] * len(boxes), x, torch.from_numpy(boxes).to(x)))

    def _input(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Normalized images (B, 3, h, w) at the size of D and S."""
        small = [cv2.resize(image, self.size, interpolation=cv2.INTER_AREA) for image in images]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(self.device)
        return normalize(pixels.float() / 255).contiguous(memory_format=torch.channels_last)

    def _detect(self, images: Sequence[np.ndarray]) -> _Found:
        x = self._input(images)
        proposals = self.detector(x)
        cell, box = proposals.best()
        return _Found(x, box, cell, proposals.p, proposals.box)

    def _by_synthesis(self, images: Sequence[np.ndarray], found: _Found) -> list[Prediction]:
        """The mask of S, pasted into the image at D's box."""
        return self._predictions(self._pasted(images, found.x, found.box), list(found.box.cpu().numpy()), found)

    def _pasted(self, images: Sequence[np.ndarray], x: torch.Tensor, box: torch.Tensor) -> list[np.ndarray]:
        crops = self.synthesis(spatial.crop(x, box, self.synthesis.params.crop)).mask
        return [
            spatial.paste(crop[None], one[None], (image.shape[0], image.shape[1]))[0, 0].clamp(0, 1).cpu().numpy()
            for image, crop, one in zip(images, crops, box, strict=True)
        ]

    def _by_student(self, images: Sequence[np.ndarray], found: _Found, subjects: int | None = None) -> list[Prediction]:
        """The student's mask, and D's box drawn to it."""
        assert self.student is not None  # both callers ask first
        masks = self.student.masks(images, subjects)
        boxes = [tighten(box, mask, self.box_level) for box, mask in zip(found.box.cpu().numpy(), masks, strict=True)]
        return self._predictions(masks, boxes, found)

    def _predictions(self, masks: Sequence[np.ndarray], boxes: Sequence[np.ndarray], found: _Found) -> list[Prediction]:
        grid = self.detector.grid
        p, proposed = (
            found.p.reshape(-1, grid, grid).cpu().numpy(),
            found.boxes.reshape(-1, grid, grid, 4).cpu().numpy(),
        )
        return [
            Prediction(mask, boxes[i], p[i], int(found.cell[i]), proposed[i], presence(mask))
            for i, mask in enumerate(masks)
        ]


def presence(mask: np.ndarray) -> float:
    """How sure a soft mask is that there is a subject: the value that its surest pixels reach, a speck of them.

    The cells' probabilities cannot tell, since they sum to one.

    Args:
        mask: (H, W) in [0, 1].
    """
    rank = max(1, round(SPECK * mask.size))
    return float(np.partition(mask, mask.size - rank, axis=None)[mask.size - rank])


def tighten(box: np.ndarray, mask: np.ndarray, level: float = BOX_LEVEL) -> np.ndarray:
    """The extent of the subject that a soft mask shows; the box itself where it shows none.

    The subject is one component (`unet.subject_component`), of values above `level`.

    Args:
        box: (4,) cx, cy, w, h in [-1, 1] image coordinates. mask: (H, W) in [0, 1].
    """
    extent = box_from_mask(subject_component(mask, np.ones_like(mask), level))
    return box if extent is None else extent.astype(box.dtype)


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


def segment_all(
    model_dir: Path,
    frames_dir: Path,
    out_dir: Path,
    paper_dir: Path,
    params: SegmentParams,
    workers: int,
    device: str,
    choose_threshold: Callable[[Path, Path], tuple[float, str]],
) -> dict[str, Any]:
    """Segment every sequence that is not for training alone; choose the threshold and write threshold.json.

    Args:
        out_dir: gets what ships. paper_dir: gets what D and S find alone, and a threshold of its own; a copy of
            `out_dir` where the model has no student.
        choose_threshold: (frames_dir, predictions_dir) -> (threshold, what it was chosen on), by validation
            sequences with ground truth; asked only when `params.threshold` is null. Without validation truth the
            student's own threshold is taken (`SelfTraining._threshold`).

    Returns:
        What threshold.json of `out_dir` holds.
    """
    # loaded here, too: a wrong folder is named once, not by every process
    student = Segmenter.load(model_dir, device).student
    index = datasets.read_index(frames_dir, usable=True)
    names = index[index["split"] != "train"]["sequence"].tolist()
    if not names:
        raise BackdropError(f"{frames_dir}/index.csv lists no sequence to segment: all are in the training split")
    folders = [out_dir] if student is None else [out_dir, paper_dir]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    there = device_there(device, cuda)
    _segment_files(model_dir, frames_dir, folders, names, params.batch, workers, there, cuda)
    own = None if student is None else student.threshold
    results = [
        _write_threshold(frames_dir, folder, params.threshold, choose_threshold, own if folder == out_dir else None)
        for folder in folders
    ]
    if student is None:
        copy_files(out_dir, paper_dir)
    return results[0]


def _write_threshold(
    frames_dir: Path,
    folder: Path,
    given: float | None,
    choose: Callable[[Path, Path], tuple[float, str]],
    own: float | None,
) -> dict[str, Any]:
    """Args: own: the model's own threshold, taken where neither parameters nor validation truth give one."""
    threshold, chosen_on = choose(frames_dir, folder) if given is None else (given, "params")
    if chosen_on == "default" and own is not None:
        threshold, chosen_on = own, "pseudo-masks"
    return write_threshold(folder, threshold, chosen_on)


class _Part(NamedTuple):
    """What a chunk of n frames has given for one folder: the part of its archive, and box (n, 4), cell (n,) and p
    (n, rows, columns) of its frames."""

    path: Path
    box: np.ndarray
    cell: np.ndarray
    p: np.ndarray


def _segment_files(
    model_dir: Path,
    frames_dir: Path,
    folders: Sequence[Path],
    names: list[str],
    batch: int,
    workers: int,
    device: str,
    gpu: bool,
) -> None:
    """Write the archive of each sequence (soft masks as 8-bit PNG, `predictions.npz`): into the first folder what
    ships, into the second, if there is one, what D and S find alone."""
    counts, length = frame_counts(frames_dir, names), batch * max(1, CHUNK // batch)
    with ExitStack() as stack:
        places = [(folder, stack.enter_context(parts_folder(folder))) for folder in folders]
        rest = (model_dir, frames_dir, places, batch, device)
        found = by_sequence(_segment_chunk, counts, length, rest, workers, "segment", gpu)
        for name, chunks in stack.enter_context(closing(found)):
            _join([folder / f"{name}.zip" for folder in folders], chunks)


def _join(paths: Sequence[Path], chunks: Iterable[Sequence[_Part]]) -> None:
    """The archives of a sequence from their parts."""
    with ExitStack() as stack:
        archives = [stack.enter_context(ArchiveWriter(path)) for path in paths]
        facts: list[list[tuple]] = [[] for _ in paths]
        for parts in chunks:
            for archive, own, part in zip(archives, facts, parts, strict=True):
                archive.join(part.path)
                own.append(part[1:])
        for archive, own in zip(archives, facts, strict=True):
            box, cell, p = (np.concatenate(arrays) for arrays in zip(*own, strict=True))
            archive.add(BOXES, _npz(box=box, cell=cell, p=p))


def _segment_chunk(
    name: str,
    span: range,
    model_dir: Path,
    frames_dir: Path,
    places: Sequence[tuple[Path, Path]],
    batch: int,
    device: str,
) -> list[_Part]:
    """Args: places: of each folder itself, and where its archives' parts go."""
    segmenter = kept(Segmenter.load, model_dir, device)
    frames = kept(FrameArchive, frames_dir / f"{name}.zip")
    paths = [parts / f"{name}.{span.start}.zip" for _, parts in places]
    facts: list[list[tuple]] = [[] for _ in places]
    with ExitStack() as stack:
        stack.enter_context(_one_thread(segmenter.device))
        archives = [
            stack.enter_context(PartWriter(path, folder / f"{name}.zip"))
            for path, (folder, _) in zip(paths, places, strict=True)
        ]
        for start in span[::batch]:
            images = [frames.image(t) for t in range(start, min(start + batch, span.stop))]
            for t, found in enumerate(_predicted(segmenter, images, len(places)), start):
                for archive, own, prediction in zip(archives, facts, found, strict=True):
                    archive.add(entry(t), encode_png((prediction.mask * 255).round().astype(np.uint8)))
                    own.append((prediction.box, prediction.cell, prediction.p))
    return [
        _Part(path, *(np.array(values) for values in zip(*own, strict=True)))
        for path, own in zip(paths, facts, strict=True)
    ]


def _predicted(segmenter: Segmenter, images: Sequence[np.ndarray], kinds: int) -> Sequence[tuple[Prediction, ...]]:
    """Of each image what ships; with two kinds also what D and S find alone."""
    if kinds == 1:
        return [(prediction,) for prediction in segmenter.predict_batch(images)]
    return segmenter.predict_both(images)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On the CPU one thread computes: sums of several differ in their last bits, by the number of cores. The others
    have chunks of their own."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
