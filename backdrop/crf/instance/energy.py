"""The instance CRF: a pixel's label is a detection's number, or 0 for background, by mean field in PyTorch.

After Arnab and Torr, "Pixelwise Instance Segmentation with a Dynamically Instantiated Network" (CVPR 2017). V_i is in
{0, ..., D}, where D is the number of detections of the frame:

    E(v) = sum over i of U(v_i) + sum over pairs i < j of w k_ij [v_i != v_j]         (Gaussian and bilateral)
    U(v_i) = -ln(w_box psi_box + w_global psi_global + w_shape psi_shape + w_past psi_past + w_look psi_look)

    psi_box(k)    = q_i s_k where pixel i lies in box k, else 0
    psi_global(k) = q_i
    psi_shape(k)  = q_i t_i, where t is the template that fits box k best (`templates`)
    psi_past(k)   = q_i m_i, where m says how much of subject k flow has carried to pixel i from another frame
    psi_look(k)   = q_i c_i, where c is the probability of subject k by the pixel's color alone

q_i is the soft mask, s_k the detection's score. The last two are not in the paper: in video the frames in which
subjects stood apart tell of them best. For background all terms that are there have 1 - q_i, as if the image were its
box. Kernels are those of `mean_field`, with the labels in the place of the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float

from backdrop.crf.mean_field import Operator, Symmetric
from backdrop.errors import BackdropError

LEAST_PSI = 1e-6
"""-ln of less is not distinguished."""


class InstanceWeights(NamedTuple):
    """Weights of the terms, each at least 0: floats, or scalars that gradients reach. gaussian, bilateral: of kernels.

    Learning starts with the defaults; what ships was learned (`shipped`). The terms everywhere (the paper's "global")
    and past are off, as they bring nothing (docs/structured.md). A weight of 0 is not learned.
    """

    box: Any = 1.0
    everywhere: Any = 0.0
    shape: Any = 1.0
    past: Any = 0.0
    look: Any = 1.0
    gaussian: Any = 1.0
    bilateral: Any = 4.0


class InstanceTerms(NamedTuple):
    """What is known of a frame of H x W pixels with D detections. None: that term is absent.

    soft: (H, W) in [0, 1]. inside: (D, H, W), 1 in a detection's box, else 0. scores: (D,) in [0, 1].
    shapes, past, looks: (D, H, W) in [0, 1]. gaussian, bilateral: `mean_field.Normalized` kernels of a batch of 1.
    """

    soft: Float[torch.Tensor, "H W"]
    inside: Float[torch.Tensor, "D H W"]
    scores: Float[torch.Tensor, "D"]
    shapes: Float[torch.Tensor, "D H W"] | None = None
    past: Float[torch.Tensor, "D H W"] | None = None
    looks: Float[torch.Tensor, "D H W"] | None = None
    gaussian: Operator | None = None
    bilateral: Operator | None = None


def instance_unary(terms: InstanceTerms, weights: InstanceWeights) -> Float[torch.Tensor, "L H W"]:
    """U of each label, L = D + 1; row 0 is background."""
    per_subject = weights.box * terms.scores[:, None, None] * terms.inside + weights.everywhere
    background = weights.box + weights.everywhere
    for weight, term in _maps(terms, weights):
        if term is not None:
            per_subject, background = per_subject + weight * term, background + weight
    psi = torch.cat([(background * (1 - terms.soft))[None], terms.soft * per_subject])
    return -psi.clamp_min(LEAST_PSI).log()


def _maps(terms: InstanceTerms, weights: InstanceWeights) -> list[tuple[Any, Float[torch.Tensor, "D H W"] | None]]:
    return [(weights.shape, terms.shapes), (weights.past, terms.past), (weights.look, terms.looks)]


def instance_mean_field(
    terms: InstanceTerms, weights: InstanceWeights, iterations: int
) -> Float[torch.Tensor, "L H W"]:
    """The logarithm of Q(V_i = l) after so many updates of all pixels at once, L = D + 1.

    Raises:
        BackdropError: sizes that do not fit, or values that are not in their range.
    """
    _check_terms(terms)
    unary = instance_unary(terms, weights)
    found = (-unary).log_softmax(dim=0)
    for _ in range(iterations):
        agreeing, update = found.exp(), -unary
        for weight, kernel in ((weights.gaussian, terms.gaussian), (weights.bilateral, terms.bilateral)):
            if kernel is not None:  # Potts: each neighbor that disagrees costs, so each that agrees pays
                update = update + weight * Symmetric.apply(agreeing, kernel)
        found = update.log_softmax(dim=0)
    return found


def _check_terms(terms: InstanceTerms) -> None:
    soft, scores = terms.soft, terms.scores
    if soft.ndim != 2 or not soft.numel() or not bool(((soft >= 0) & (soft <= 1)).all()):
        raise BackdropError("the instance CRF needs a soft mask (H, W) with values in [0, 1]")
    size = (len(scores), *soft.shape)
    for name, values in (
        ("boxes", terms.inside),
        ("shapes", terms.shapes),
        ("masks of the past", terms.past),
        ("looks", terms.looks),
    ):
        if values is not None and tuple(values.shape) != size:
            raise BackdropError(f"the instance CRF's {name} are of {tuple(values.shape)}, not {size}")
        if values is not None and not bool(((values >= 0) & (values <= 1)).all()):
            raise BackdropError(f"the instance CRF's {name} hold values that are not in [0, 1]")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise BackdropError("scores of detections must lie in [0, 1]")
