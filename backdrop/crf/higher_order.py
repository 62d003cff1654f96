"""The CRF of higher order on a frame: superpixels by SLIC, the pixels of detections by GrabCut, and mean field.

The terms and their sources are in `mean_field`. As in Arnab et al. (ECCV 2016) a detection's pixels are what GrabCut
(Rother, Kolmogorov and Blake, SIGGRAPH 2004) takes for foreground in its box, not the box.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num

from backdrop.crf.findings import Edges
from backdrop.crf.mean_field import BilateralKernel, GaussianKernel, Normalized, Terms, Weights, mean_field
from backdrop.crf.parameters import CRFParams
from backdrop.io.masks import within
from backdrop.motion.regions.superpixels import slic_labels
from backdrop.run.chunks import one_thread

SLIC_ITERATIONS = 3

COMPACT = 10.0
"""How much SLIC weighs distance against color (its own default)."""

CUT_PIXELS = 160 * 90
"""GrabCut works on an image of at most so many pixels: some 20 ms, and the outline is the pairwise terms' matter."""

CUT_ITERATIONS = 2

LEAST_CUT_SIDE = 4
"""Pixels at GrabCut's size. A box that is smaller there, or that leaves no background, has no foreground to cut out."""


def slic_superpixels(image: Num[np.ndarray, "H W 3"], side: int) -> Int64[np.ndarray, "H W"]:
    """Numbers of SLIC superpixels of about `side` x `side` pixels (Achanta et al., 2012).

    Args:
        image: RGB, uint8.
    """
    if min(image.shape[:2]) < 2 * side:
        return np.zeros(image.shape[:2], np.int64)  # SLIC has nothing to divide
    return slic_labels(image, side, COMPACT, SLIC_ITERATIONS).astype(np.int64)


def clique(image: Num[np.ndarray, "H W 3"], box: Edges) -> Bool[np.ndarray, "H W"]:
    """The pixels that a detection is about: GrabCut's foreground in its box; none where there is no telling."""
    height, width = image.shape[:2]
    size = within((width, height), CUT_PIXELS)
    edges = [e * scale for e, scale in zip(box[:4], [size[0] / width, size[1] / height] * 2, strict=True)]
    left, top = (max(0, round(edge)) for edge in edges[:2])
    right, bottom = (min(limit, round(edge)) for edge, limit in zip(edges[2:], size, strict=True))
    whole = (right - left) * (bottom - top) >= size[0] * size[1]
    if min(right - left, bottom - top) < LEAST_CUT_SIDE or whole:
        return np.zeros((height, width), bool)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    label, backs, fores = np.zeros(size[::-1], np.uint8), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its colors are clustered from random starts
    place = (left, top, right - left, bottom - top)
    cv2.grabCut(small, label, place, backs, fores, CUT_ITERATIONS, cv2.GC_INIT_WITH_RECT)
    return cv2.resize(label & 1, (width, height), interpolation=cv2.INTER_NEAREST) > 0


def frame_terms(
    image: Num[np.ndarray, "H W 3"], params: CRFParams, reaches: tuple[float, float], boxes: list[Edges]
) -> Terms:
    """The terms of one frame, with a batch of 1, on the CPU. Those of weight 0 are not computed.

    Args:
        image: RGB, uint8. reaches: of the Gaussian and of the bilateral kernel, pixels.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    like, terms = pixels[:, 0], Terms()
    if params.gaussian_compat:
        terms = terms._replace(gaussian=Normalized(GaussianKernel(reaches[0]), like))
    if params.bilateral_compat:
        kernel = BilateralKernel(pixels, reaches[1], params.bilateral_srgb)
        terms = terms._replace(bilateral=Normalized(kernel, like))
    if params.superpixel_background or params.superpixel_foreground:
        terms = terms._replace(superpixels=torch.from_numpy(slic_superpixels(image, params.superpixel_side))[None])
    if params.detection and boxes:
        cliques = np.stack([clique(image, box) for box in boxes]).astype(np.float32)
        scores = torch.tensor([[box.score for box in boxes]])
        terms = terms._replace(cliques=torch.from_numpy(cliques)[None], scores=scores)
    return terms


def weights_of(params: CRFParams) -> Weights:
    """The weights as the parameters name them."""
    return Weights(
        unary=params.unary_weight,
        gaussian=params.gaussian_compat,
        bilateral=params.bilateral_compat,
        background=params.superpixel_background,
        foreground=params.superpixel_foreground,
        detection=params.detection,
    )


def infer_higher_order(
    image: Num[np.ndarray, "H W 3"],
    logit: Float[np.ndarray, "H W"],
    params: CRFParams,
    reaches: tuple[float, float],
    boxes: list[Edges],
) -> Float[np.ndarray, "H W"]:
    """The logit of Q(foreground) after `params.iterations`.

    Args:
        image: RGB, uint8. logit: the unary's energy of background less that of foreground.
    """
    with one_thread(), torch.no_grad():
        terms = frame_terms(image, params, reaches, boxes)
        unary = torch.from_numpy(np.ascontiguousarray(logit, np.float32))[None]
        return mean_field(unary, weights_of(params), terms, params.iterations)[0].numpy()
