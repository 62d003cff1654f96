"""Inference: a single image -> box, cell probabilities, soft mask. No video, no inpainter.

Cell probabilities are the detector's. Without a student, so is the box, and the mask is the synthesis network's. With
a student, the mask is the student's, and the box is the extent of the student's subject. Where the student shows no
subject, the box is the detector's. The same folder then also gives what detector and synthesis network find alone: the
papers' method.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import TypeAdapter

from backdrop.config.sections import Size
from backdrop.errors import BackdropError
from backdrop.io.images import RGB, decode_image, rgb
from backdrop.io.masks import Mask, box_from_mask, within_region
from backdrop.motion.blobs import SPECK, subject_component
from backdrop.networks import spatial
from backdrop.networks.detector import Detector
from backdrop.networks.encoder import normalize
from backdrop.networks.model_folders import load_network, with_weights
from backdrop.networks.parameters import OLDER, DetectorParams, SynthesisParams
from backdrop.networks.student import Student, sharpen
from backdrop.networks.synthesis import SynthesisNetwork
from backdrop.run.threads import in_threads

BOX_LEVEL = 0.3
"""A shipped box holds what the student's mask shows above this level: faint limbs belong to the box. On three
validation videos its average precision was .92. At 0.5 it was .76, and .61 where D's box had to meet the subject."""

PredictorKind = TypeVar("PredictorKind", bound="Predictor")

ImageLike = np.ndarray | torch.Tensor | Image.Image | str | Path


def to_rgb(image: ImageLike) -> RGB:
    """An image as (H, W, 3) uint8 RGB.

    Args:
        image: an array (H, W, 3), (H, W, 4) with alpha, or (H, W) gray, of uint8; a tensor (3, H, W) of uint8 or of
            floats in [0, 1]; a Pillow image; the path of an image file. Rotation that Exif asks for is done.

    Raises:
        BackdropError: anything else, or a file that is not an image.
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


NO_MASK = np.zeros((0, 0), np.float32)
"""In place of a mask that nobody asked for."""


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
    """What D finds in a batch.

    x: normalized images at the size of D (B, 3, h, w). box (B, 4) and cell (B,): those chosen per image.
    p (B, C) and boxes (B, C, 4): the probabilities and boxes of all C cells.
    """

    x: torch.Tensor
    box: torch.Tensor
    cell: torch.Tensor
    p: torch.Tensor
    boxes: torch.Tensor


class Predictor:
    """D, S and (after self-training) the student of a model folder, ready to predict.

    The public class is `app.segmenter.Segmenter`, which adds videos.

    Example:
        >>> predictor = Predictor.load("models/joint")
        >>> mask = predictor.predict(image).mask > 0.5
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
    def load(cls: type[PredictorKind], folder: str | Path, device: str = "auto") -> PredictorKind:
        """Read a model folder that stage train or stage student wrote.

        Args:
            device: "auto", "cpu" or "cuda[:n]"; auto takes the GPU where there is one.

        Raises:
            BackdropError: the folder is not a model folder, its weights do not fit its config, or there is no GPU.
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
            of_detector = DetectorParams.model_validate(OLDER["detector"] | config["detector"])
            of_synthesis = SynthesisParams.model_validate(OLDER["synthesis"] | config["synthesis"])
            backbone = str(config.get("backbone", "resnet18"))
            detector = with_weights(lambda: Detector(of_detector, "none", backbone), of["detector"])
            synthesis = with_weights(lambda: SynthesisNetwork(of_synthesis, "none", backbone), of["synthesis"])
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
        """The shipped box holds what the mask shows above this: `BOX_LEVEL`, or the student's threshold if lower."""
        threshold = None if self.student is None else self.student.threshold
        return BOX_LEVEL if threshold is None else min(BOX_LEVEL, threshold)

    def predict(self, image: ImageLike, subjects: int | None = None, region: Mask | None = None) -> Prediction:
        """Box and mask of one image.

        Args:
            image: (H, W, 3) uint8 RGB, or whatever else `to_rgb` takes: a path, a Pillow image, a tensor.
            subjects: up to so many parts make the mask; None: as many as the student was trained for. Without a
                student, a mask has the one subject that D chose.
            region: of interest, (H, W) bool of any size, True inside: outside, the mask is 0, and no box has its center
                (p is 0 there) as long as another one has it inside. None: the whole image.

        Raises:
            BackdropError: `image` is nothing that `to_rgb` takes.
        """
        return self.predict_batch([image], subjects, region)[0]

    @torch.inference_mode()
    def predict_batch(
        self, images: Sequence[ImageLike], subjects: int | None = None, region: Mask | None = None
    ) -> list[Prediction]:
        """The same for several images, which may differ in size. Each is segmented by itself, all in one region."""
        pictures = [to_rgb(image) for image in images]
        if not pictures:
            return []
        found = self._detect(pictures, region)
        if self.student is None:
            return self._by_synthesis(pictures, found, region)
        return self._by_student(pictures, found, subjects, region)

    @torch.inference_mode()
    def predict_both(
        self, images: Sequence[np.ndarray], region: Mask | None = None, synthesize: bool = True
    ) -> list[tuple[Prediction, Prediction]]:
        """Per image what `predict` gives, and what D and S find without the student. D runs once.

        The second has D's box as it is, not tightened to a mask. Without a student, both are the same.

        Args:
            images: (H, W, 3) uint8 RGB each; sizes may differ. region: as in `predict`.
            synthesize: False: beside a student the second has no mask (`NO_MASK`), as S does not run.
        """
        found = self._detect(images, region)
        if synthesize or self.student is None:
            alone = self._by_synthesis(images, found, region)
        else:
            alone = self._predictions([NO_MASK] * len(images), list(found.box.cpu().numpy()), found)
        shipped = alone if self.student is None else self._by_student(images, found, None, region)
        return list(zip(shipped, alone, strict=True))

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray], region: Mask | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The detector alone: the chosen boxes (B, 4), and the probabilities of their cells (B,). region: as in
        `predict`."""
        found = self._detect(images, region)
        return found.box.cpu().numpy(), found.p.amax(dim=1).cpu().numpy()

    @torch.inference_mode()
    def masks_at(self, image: ImageLike, boxes: np.ndarray) -> np.ndarray:
        """What S makes of given boxes in one image: (K, H, W) float32 in [0, 1], each mask 0 outside its box.

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

    def _detect(self, images: Sequence[np.ndarray], region: Mask | None = None) -> _Found:
        x = self._input(images)
        proposals = self.detector(x)
        if region is not None:
            proposals = proposals._replace(p=_within(proposals.p, proposals.box, region))
        cell, box = proposals.best()
        return _Found(x, box, cell, proposals.p, proposals.box)

    def _by_synthesis(self, images: Sequence[np.ndarray], found: _Found, region: Mask | None) -> list[Prediction]:
        """The mask of S, pasted into the image at D's box."""
        masks = [within_region(mask, region) for mask in self._pasted(images, found.x, found.box)]
        return self._predictions(masks, list(found.box.cpu().numpy()), found)

    def _pasted(self, images: Sequence[np.ndarray], x: torch.Tensor, box: torch.Tensor) -> list[np.ndarray]:
        crops = self.synthesis(spatial.crop(x, box, self.synthesis.params.crop)).mask
        return [
            spatial.paste(crop[None], one[None], (image.shape[0], image.shape[1]))[0, 0].clamp(0, 1).cpu().numpy()
            for image, crop, one in zip(images, crops, box, strict=True)
        ]

    def _by_student(
        self, images: Sequence[np.ndarray], found: _Found, subjects: int | None, region: Mask | None
    ) -> list[Prediction]:
        """The student's mask, and D's box drawn to it."""
        assert self.student is not None  # both callers ask first
        soft = self.student.soft(images, subjects, region)
        masks = in_threads(partial(sharpen, guide=self.student.guide), images, soft)  # as `Student.masks`
        masks = [within_region(mask, region) for mask in masks]
        boxes = in_threads(partial(tighten, level=self.box_level), list(found.box.cpu().numpy()), masks)
        return self._predictions(masks, boxes, found)

    def _predictions(self, masks: Sequence[np.ndarray], boxes: Sequence[np.ndarray], found: _Found) -> list[Prediction]:
        grid = self.detector.grid
        p, proposed = (
            found.p.reshape(-1, grid, grid).cpu().numpy(),
            found.boxes.reshape(-1, grid, grid, 4).cpu().numpy(),
        )
        sure = in_threads(presence, masks)
        return [
            Prediction(mask, boxes[i], p[i], int(found.cell[i]), proposed[i], sure[i]) for i, mask in enumerate(masks)
        ]


def _within(p: torch.Tensor, box: torch.Tensor, region: Mask) -> torch.Tensor:
    """The probabilities (B, C) of cells with boxes (B, C, 4), 0 where a box has its center outside of the region.

    They sum to 1 again. As they are in an image where no box has its center inside.
    """
    height, width = region.shape
    x = ((box[..., 0] + 1) / 2 * width).long().clamp(0, width - 1)
    y = ((box[..., 1] + 1) / 2 * height).long().clamp(0, height - 1)
    inside = p * torch.from_numpy(region).to(p.device)[y, x]
    total = inside.sum(dim=1, keepdim=True)
    return torch.where(total > 0, inside / total.clamp_min(torch.finfo(p.dtype).tiny), p)


def presence(mask: np.ndarray) -> float:
    """How sure a soft mask is that there is a subject, in [0, 1].

    It is the value that the surest pixels reach, as many as make a speck (`motion.blobs.SPECK`). The cells'
    probabilities cannot tell, since they sum to one.

    Args:
        mask: (H, W) in [0, 1].
    """
    if not mask.size:
        return 0.0
    rank = max(1, round(SPECK * mask.size))
    values = mask[mask > 0.5]  # most often few, and to part few values is fast
    if len(values) < rank:
        values = mask.ravel()
    return float(np.partition(values, len(values) - rank)[len(values) - rank])


def tighten(box: np.ndarray, mask: np.ndarray, level: float = BOX_LEVEL) -> np.ndarray:
    """The extent of the subject that a soft mask shows; `box` itself where the mask shows no subject.

    The subject is one component of the values above `level` (`motion.blobs.subject_component`).

    Args:
        box: (4,) cx, cy, w, h in [-1, 1] image coordinates. mask: (H, W) in [0, 1].
    """
    extent = box_from_mask(subject_component(mask, np.ones_like(mask), level))
    return box if extent is None else extent.astype(box.dtype)
