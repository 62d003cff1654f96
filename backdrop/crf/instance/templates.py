"""Shapes of lone subjects: templates by k-means, and those that fit what a soft mask shows in boxes.

After Arnab and Torr, "Pixelwise Instance Segmentation with a Dynamically Instantiated Network" (CVPR 2017): a shape
prior helps where subjects that look alike cover one another. Templates lie in a box: row 0 is its upper edge, values
are the share of subjects of that shape that cover the place, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32

from backdrop.errors import BackdropError
from backdrop.io.masks import Mask, box_from_mask
from backdrop.networks import spatial

TEMPLATE_SIDE = 24
"""Templates are so many values wide and high, whatever the box's proportions."""

KMEANS_ROUNDS = 40

LEAST_NORM = 1e-6
"""A box that holds nothing correlates with no template."""


def in_own_box(mask: Mask, side: int = TEMPLATE_SIDE) -> Float32[np.ndarray, "S S"]:
    """What the extent of a mask holds, resampled to side x side.

    Raises:
        BackdropError: the mask is empty.
    """
    box = box_from_mask(mask)
    if box is None:
        raise BackdropError("an empty mask has no shape")
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    return spatial.crop(values, torch.from_numpy(box.astype(np.float32))[None], side)[0, 0].numpy()


def shape_templates(masks: Iterable[Mask], count: int, seed: int = 0) -> Float32[np.ndarray, "T S S"]:
    """Up to `count` templates: the means of k-means of lone subjects' masks, and of these as in a mirror.

    Args:
        masks: (H, W) bool, each of one subject that nothing covers. All of one size. Empty ones are passed over.

    Raises:
        BackdropError: no mask has a subject.
    """
    shapes = [in_own_box(mask) for mask in masks if mask.any()]
    if not shapes:
        raise BackdropError("shape templates need masks of lone subjects: no mask holds one")
    rows = np.stack([shape for one in shapes for shape in (one, one[:, ::-1])]).reshape(2 * len(shapes), -1)
    clusters = min(count, len(np.unique(rows, axis=0)))
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, KMEANS_ROUNDS, 0.0)
    _, _, centers = cv2.kmeans(rows, clusters, None, criteria, 3, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    return centers.reshape(-1, TEMPLATE_SIDE, TEMPLATE_SIDE)


def fitting_shapes(
    soft: Float[torch.Tensor, "H W"], boxes: Float[torch.Tensor, "D 4"], templates: Float[torch.Tensor, "T S S"]
) -> Float[torch.Tensor, "D H W"]:
    """Per box the template of the largest correlation with what the soft mask shows there, laid into the image.

    The correlation is the sum of Q t over the norms of Q and t, over the box (t* of the paper). Gradients reach
    templates through the one that is chosen. 0 outside of the box.
    """
    shown = spatial.crop(soft[None, None].expand(len(boxes), -1, -1, -1), boxes, templates.shape[-1]).flatten(1)
    flat = templates.flatten(1)
    norms = shown.norm(dim=1, keepdim=True) * flat.norm(dim=1)
    best = (shown @ flat.T / norms.clamp_min(LEAST_NORM)).argmax(dim=1)
    return spatial.paste(templates[best][:, None], boxes, (soft.shape[0], soft.shape[1]))[:, 0]
