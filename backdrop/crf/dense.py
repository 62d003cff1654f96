"""The CRF that sharpens soft masks (stage refine): the dense one, or that of higher order (`crf.kind`).

Fully connected pairwise terms after Kraehenbuehl and Koltun, "Efficient Inference in Fully
Connected CRFs with Gaussian Edge Potentials" (NIPS 2011), by pydensecrf2. The papers take the
unary from the thresholded mask, the default pairwise terms and 5 iterations.

pydensecrf crashes the process or answers nonsense on bad input. So images, masks and thresholds are
checked here before the call, and the parameters are checked by `CRFParams`. pydensecrf also holds
Python's global lock, so frames are spread over processes, not threads.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from backdrop.crf.findings import BoxFindings, Edges, edges_of
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.io.masks import resize_mask, within

QUANTUM = 1 / 510
"""Half a step of an 8-bit mask. No stored probability is surer than that, and 0 and 1 have no finite energy."""

CRF_MARGIN = 3.0
"""The CRF sees this margin around what may be foreground, in units of its widest kernel."""

NEAR = 0.25
"""A pixel may be foreground where the soft mask is above this share of the threshold."""

PIXELS = 1280 * 720
"""The CRF takes some ten seconds and a gigabyte per million pixels. What is larger is refined at this size."""


def unary_energy(soft: Float[np.ndarray, "H W"], threshold: float, params: CRFParams) -> Float32[np.ndarray, "2 N"]:
    """Energies -log P of (background, foreground) for each pixel, row-major.

    thresholded: the label on the mask's side of the threshold has probability `params.confidence`.
    soft: the mask's own probability, its logit shifted so that `threshold` becomes 1/2.
    """
    if params.unary == "thresholded":
        foreground = np.where(soft > threshold, params.confidence, 1 - params.confidence)
    else:
        logit = _logit(soft) - _logit(threshold)
        foreground = np.clip(1 / (1 + np.exp(-logit)), QUANTUM, 1 - QUANTUM)
    energy = -np.log(np.stack([1 - foreground.ravel(), foreground.ravel()]))
    return np.require(energy, np.float32, ["C", "W"])


def _logit(p: np.ndarray | float) -> Any:
    p = np.clip(np.asarray(p, np.float64), QUANTUM, 1 - QUANTUM)
    return np.log(p) - np.log1p(-p)


def reach(sxy: float, size: tuple[int, int], reference: float | None) -> float:
    """Reach of a kernel in pixels: `sxy`, scaled from an image of diagonal `reference` to one of this size.

    The scale is taken to the hundredth, so that a diagonal in whole pixels gives its own size exactly `sxy`. Scaling
    never takes a reach below a pixel, where the kernel no longer joins neighbors.

    Args:
        size: (H, W) of the image. reference: pixels; None: `sxy` as it is.
    """
    if reference is None:
        return sxy
    return max(min(1.0, sxy), sxy * round(float(np.hypot(*size)) / reference, 2))


def refine(
    image: np.ndarray, soft: np.ndarray, threshold: float, params: CRFParams, found: BoxFindings | None = None
) -> Bool[np.ndarray, "H W"]:
    """The mask after the CRF, True = foreground.

    A thresholded mask that is empty or full comes back as it is: it holds no edge to move, and
    the CRF would only invent one. So does any mask where `enabled` is false;
    "auto" is true here, see `refine.worth`.

    Args:
        image: RGB, (H, W, 3) uint8.
        soft: (H, W), probability of foreground in [0, 1].
        threshold: foreground is above it.
        found: what D found, of which only the kind "higher_order" makes use.

    Raises:
        BackdropError: sizes, types or values that the CRF cannot take.
    """
    _check_input(image, soft, threshold)
    boxes = edges_of(found, (soft.shape[1], soft.shape[0])) if params.kind == "higher_order" else []
    mask = np.asarray(soft > threshold)
    if not params.enabled or not mask.any() or mask.all():
        return mask
    # The kernels' reaches follow the size of the complete image, whatever part of it is computed.
    reaches = [reach(sxy, mask.shape, params.reference_diagonal) for sxy in (params.gaussian_sxy, params.bilateral_sxy)]
    used = [
        sxy for sxy, weight in zip(reaches, (params.gaussian_compat, params.bilateral_compat), strict=True) if weight
    ]
    window = _crf_window(soft, threshold, max(used, default=1.0), boxes)
    refined = np.zeros(mask.shape, bool)
    inside = [box.within(window) for box in boxes]
    refined[window] = _refine_bounded(
        image[window], soft[window], threshold, params, (reaches[0], reaches[1]), boxes=inside
    )
    return refined


def _crf_window(
    soft: Float[np.ndarray, "H W"], threshold: float, widest: float, boxes: list[Edges]
) -> tuple[slice, slice]:
    """The part of the image in which the CRF can change anything: where the soft mask comes near the threshold, or
    something was detected, and as far around as the kernels reach.

    The rest is background. The lattice on which the CRF computes lies differently in a part than in the complete image.
    So half a percent of the mask's pixels differ, for better as often as for worse (seven sequences; a larger margin
    changes no less). It takes a fifth to two fifths of the time.

    Args:
        widest: reach of the widest kernel, pixels.
    """
    margin = int(np.ceil(CRF_MARGIN * widest))
    near = soft > NEAR * threshold
    for box in boxes:
        left, top, right, bottom = (max(0, round(edge)) for edge in box[:4])
        near[top:bottom, left:right] = True
    spans = []
    for axis in (1, 0):
        found = np.flatnonzero(near.any(axis=axis))
        spans.append(slice(max(int(found[0]) - margin, 0), int(found[-1]) + 1 + margin))
    return spans[0], spans[1]


def _refine_bounded(
    image: np.ndarray,
    soft: np.ndarray,
    threshold: float,
    params: CRFParams,
    reaches: tuple[float, float],
    *,
    boxes: list[Edges],
) -> Bool[np.ndarray, "H W"]:
    """The CRF on at most `PIXELS`: what is larger is refined smaller, and the mask enlarged."""
    height, width = soft.shape
    higher = params.kind == "higher_order"
    if soft.size <= PIXELS:
        if higher:
            return _infer_boxes(image, soft, threshold, params, (*reaches, boxes))
        return _infer(image, soft, threshold, params, reaches)
    size = within((width, height), PIXELS)
    share = size[0] / width
    small = [cv2.resize(np.asarray(a), size, interpolation=cv2.INTER_AREA) for a in (image, soft.astype(np.float32))]
    shrunk = (share * reaches[0], share * reaches[1])
    rest = small[0], small[1].clip(0, 1), threshold, params
    scaled = [box.scaled(share) for box in boxes]
    mask = _infer_boxes(*rest, (*shrunk, scaled)) if higher else _infer(*rest, shrunk)
    return resize_mask(mask, (width, height))


def _infer(
    image: np.ndarray, soft: np.ndarray, threshold: float, params: CRFParams, reaches: tuple[float, float]
) -> Bool[np.ndarray, "H W"]:
    """Args: reaches: of the Gaussian and of the bilateral kernel, pixels."""
    from pydensecrf.densecrf import DenseCRF2D  # imported late: the checks need no compiled extension

    height, width = soft.shape
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(unary_energy(soft, threshold, params))
    if params.gaussian_compat:  # a term of weight 0 costs as much as any other
        crf.addPairwiseGaussian(sxy=reaches[0], compat=params.gaussian_compat)
    if params.bilateral_compat:
        pixels = np.require(image, np.uint8, ["C", "W"])
        crf.addPairwiseBilateral(
            sxy=reaches[1], srgb=params.bilateral_srgb, rgbim=pixels, compat=params.bilateral_compat
        )
    background, foreground = np.array(crf.inference(params.iterations)).reshape(2, height, width)
    return foreground > background


def _infer_boxes(
    image: np.ndarray, soft: np.ndarray, threshold: float, params: CRFParams, rest: tuple[float, float, list[Edges]]
) -> Bool[np.ndarray, "H W"]:
    """Args: rest: reaches of the kernels in pixels, and what was detected."""
    from backdrop.crf.higher_order import infer_higher_order  # PyTorch takes seconds, and the dense CRF needs none

    background, foreground = unary_energy(soft, threshold, params)
    logit = (background - foreground).reshape(soft.shape)
    return infer_higher_order(image, logit, params, rest[:2], rest[2]) > 0


def _check_input(image: np.ndarray, soft: np.ndarray, threshold: float) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise BackdropError(f"the CRF needs an RGB image (H, W, 3) of uint8, not {image.shape} of {image.dtype}")
    if soft.shape != image.shape[:2]:
        raise BackdropError(f"the CRF needs mask and image of one size, not {soft.shape} and {image.shape[:2]}")
    if not (np.isfinite(soft).all() and soft.min() >= 0 and soft.max() <= 1):
        raise BackdropError("the soft mask holds values that are not in [0, 1] or not numbers; segment again")
    if not 0 <= threshold <= 1:
        raise BackdropError(f"the threshold of the masks must lie in [0, 1], not {threshold}")
