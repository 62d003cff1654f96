"""A frame's mask divided among detections by the instance CRF."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Num, UInt8

from backdrop.crf.instance.energy import InstanceTerms, InstanceWeights, instance_mean_field
from backdrop.crf.instance.templates import fitting_shapes
from backdrop.crf.mean_field import BilateralKernel, GaussianKernel, Normalized
from backdrop.io.masks import Mask, Soft, within
from backdrop.networks import spatial
from backdrop.run.chunks import one_thread

DIVIDED_PIXELS = 320 * 180
"""Images of at most so many pixels are computed; the outline of the mask stays that of the full size."""


GAUSSIAN_SXY, BILATERAL_SXY, BILATERAL_SRGB = 3.0, 15.0, 8.0
"""Reaches of the kernels in pixels of the full size, and in gray levels: those of the CRF that ships."""

INSTANCE_ITERATIONS = 5


class InstanceDetections(NamedTuple):
    """Subjects that a frame may have.

    boxes: (D, 4) cx, cy, w, h in [-1, 1] image coordinates. scores: (D,) in [0, 1].
    past, looks: (D, h, w) in [0, 1], of any size: see `energy`. None: not known.
    """

    boxes: Float[np.ndarray, "D 4"]
    scores: Float[np.ndarray, "D"]
    past: Float[np.ndarray, "D h w"] | None = None
    looks: Float[np.ndarray, "D h w"] | None = None


def instance_terms(
    image: Num[np.ndarray, "H W 3"],
    soft: Soft,
    found: InstanceDetections,
    templates: Float[np.ndarray, "T S S"] | None,
    kernels: tuple[bool, bool] = (True, True),
) -> InstanceTerms:
    """The terms of a frame, reduced to `DIVIDED_PIXELS`, on the CPU.

    Args:
        image: RGB, uint8. soft: in [0, 1]. templates: None: no shape term. kernels: whether Gaussian and bilateral ones
            are made.
    """
    height, width = soft.shape
    size = within((width, height), DIVIDED_PIXELS)
    share = size[0] / width
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    q = torch.from_numpy(cv2.resize(soft.astype(np.float32), size, interpolation=cv2.INTER_AREA).clip(0, 1))
    boxes = torch.from_numpy(np.asarray(found.boxes, np.float32))
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    gaussian = Normalized(GaussianKernel(share * GAUSSIAN_SXY), q[None]) if kernels[0] else None
    bilateral = None
    if kernels[1]:
        bilateral = Normalized(BilateralKernel(pixels, share * BILATERAL_SXY, BILATERAL_SRGB), q[None])
    return InstanceTerms(
        soft=q,
        inside=spatial.hole(boxes, (size[1], size[0]))[:, 0],
        scores=torch.from_numpy(np.asarray(found.scores, np.float32)),
        shapes=None if templates is None else fitting_shapes(q, boxes, torch.from_numpy(templates)).clamp(0, 1),
        past=_resized_maps(found.past, size),
        looks=_resized_maps(found.looks, size),
        gaussian=gaussian,
        bilateral=bilateral,
    )


def _resized_maps(maps: np.ndarray | None, size: tuple[int, int]) -> torch.Tensor | None:
    if maps is None:
        return None
    resized = [cv2.resize(one.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for one in maps]
    return torch.from_numpy(np.stack(resized).clip(0, 1))


def instance_labels(
    image: Num[np.ndarray, "H W 3"],
    soft: Soft,
    mask: Mask,
    found: InstanceDetections,
    *,
    weights: InstanceWeights,
    templates: Float[np.ndarray, "T S S"] | None,
) -> UInt8[np.ndarray, "H W"]:
    """0 outside of the mask, in it the number k of the most probable detection, row k - 1 of `found`.

    Args:
        mask: (H, W) bool, which pixels are some subject's. It is not changed.
    """
    if len(found.boxes) < 2:
        return mask.astype(np.uint8) * len(found.boxes)
    with one_thread(), torch.no_grad():
        kernels = weights.gaussian > 0, weights.bilateral > 0
        terms = instance_terms(image, soft, found, templates if weights.shape else None, kernels)
        logs = instance_mean_field(terms, weights, INSTANCE_ITERATIONS)[1:].numpy()
    size = mask.shape[1], mask.shape[0]
    best = np.argmax([cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in logs], axis=0)
    return np.where(mask, best + 1, 0).astype(np.uint8)
