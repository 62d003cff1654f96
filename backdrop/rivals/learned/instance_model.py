"""Rival instance_model: any instance model that the user has: Mask R-CNN by torchvision, or an ONNX file. Supervised.

A soft mask is the largest of score times mask over all instances, of whatever class: a subject is not asked for its
name. A checkpoint of torchvision is the state of `maskrcnn_resnet50_fpn` (or `_v2`) with any number of classes. An ONNX
model takes one RGB image in [0, 1], (3, H, W) or (1, 3, H, W), and gives, as torchvision's export does, scores (N,) and
masks (N, H, W) or (N, 1, H, W), in any order, beside what else it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from backdrop.errors import BackdropError
from backdrop.io.files import one_line, show
from backdrop.io.masks import Soft
from backdrop.rivals.material import Material

LEAST_SCORE = 0.3
"""InstanceFinder below it do not count."""

InstanceFinder = Callable[[np.ndarray], tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n h w"]]]
"""An image -> scores and masks in [0, 1], of the image's size or another."""


def instance_model(material: Material) -> Iterator[Soft]:
    """Soft masks; zero where no instance is found.

    Raises:
        BackdropError: no model is named, or it is missing, damaged or another kind of model.
    """
    if material.settings.model is None:
        raise BackdropError("no instance model: name a checkpoint or ONNX file as instance_model in rivals/params.yaml")
    path = Path(material.settings.model)
    if not path.is_file():
        raise BackdropError(f"{show(path)} does not exist: it should be the instance_model of rivals/params.yaml")
    find = onnx_instances(path) if path.suffix == ".onnx" else torchvision_instances(path)
    for t in range(len(material)):
        image = material.image(t)
        yield united(*find(image), image)


def united(scores: np.ndarray, masks: np.ndarray, image: UInt8[np.ndarray, "H W 3"]) -> Soft:
    """One soft mask of all instances."""
    soft = np.zeros(image.shape[:2], np.float32)
    for score, mask in zip(scores, masks, strict=True):
        if score >= LEAST_SCORE:
            full = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            np.maximum(soft, float(score) * full, out=soft)
    return soft.clip(0, 1)


def torchvision_instances(path: Path) -> InstanceFinder:
    """Mask R-CNN from a checkpoint; no code in it is run.

    Raises:
        BackdropError: it is no such checkpoint.
    """
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state.get("state_dict", state))
        classes = len(state["roi_heads.box_predictor.cls_score.weight"])
        build = maskrcnn_resnet50_fpn if "roi_heads.box_head.fc6.weight" in state else maskrcnn_resnet50_fpn_v2
        network = build(weights=None, weights_backbone=None, num_classes=classes)
        network.load_state_dict(state)
    except Exception as error:  # a class of its own for each kind of damage
        problem = f"lacks {error}" if isinstance(error, KeyError) else one_line(error)
        raise BackdropError(f"{show(path)} is no checkpoint of torchvision's Mask R-CNN: {problem}") from None
    network.eval()

    @torch.inference_mode()
    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = network([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
        return found["scores"].numpy(), found["masks"][:, 0].numpy()

    return find


def onnx_instances(path: Path) -> InstanceFinder:
    """An instance model as an ONNX file.

    Raises:
        BackdropError: it cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackdropError(f"{show(path)} is no ONNX model that can be run: {one_line(error)}") from None
    entry_point = session.get_inputs()[0]

    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            found = session.run(None, {entry_point.name: _input(image, entry_point.shape)})
        except Exception as error:
            raise BackdropError(
                f"{show(path)} cannot take an image as {entry_point.shape}: {one_line(error)}"
            ) from None
        return _scores_and_masks(found, path)

    return find


def _input(image: np.ndarray, shape: list[Any]) -> np.ndarray:
    """The image as (3, H, W) or (1, 3, H, W) float32 in [0, 1], at the size that the model asks for, if it does."""
    height, width = (shape[-2], shape[-1]) if len(shape) >= 3 else (None, None)
    if isinstance(height, int) and isinstance(width, int):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    x = (image.astype(np.float32) / 255).transpose(2, 0, 1)
    return x[None] if len(shape) == 4 else x


def _scores_and_masks(found: list[np.ndarray], path: Path) -> tuple[np.ndarray, np.ndarray]:
    masks = [one[:, 0] if one.ndim == 4 and one.shape[1] == 1 else one for one in found if one.ndim in (3, 4)]
    masks = [one for one in masks if one.ndim == 3]
    scores = [one for one in found if one.ndim == 1 and np.issubdtype(one.dtype, np.floating)]
    if len(masks) != 1 or len(scores) != 1 or len(masks[0]) != len(scores[0]):
        shapes = ", ".join(str(tuple(one.shape)) for one in found)
        raise BackdropError(
            f"{show(path)} gives {shapes}: expected are scores (N,) and masks (N, H, W) or (N, 1, H, W)"
        )
    if not np.isfinite(masks[0]).all() or not np.isfinite(scores[0]).all():
        raise BackdropError(f"{show(path)} gives values that are not finite")
    return scores[0], masks[0]
