"""The losses, each a pure function of tensors, and their weighted sum.

Every function returns one number per image, (B,), before importance weighting; `objective` weights and sums.
Who learns from what (journal version, section 3.3.2) is decided by what is detached: see `train.model`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from backdrop.learn import ranks
from backdrop.networks.encoder import square_distance
from backdrop.train.parameters import LossParams


def area(box: Float[Tensor, "B 4"], margin: float = 0.0, outside: bool = True) -> Float[Tensor, "B"]:
    """Area of a box, its sides (1 + margin) times as long, as a share of the image.

    Args:
        outside: also the part that leaves the image counts, in which no pixel can differ.
    """
    if outside:
        return (box[:, 2] * box[:, 3]) / 4 * (1 + margin) ** 2
    reach = box[:, 2:] / 2 * (1 + margin)
    return ((box[:, :2] + reach).clamp(max=1) - (box[:, :2] - reach).clamp(min=-1)).prod(dim=1) / 4


def background_loss(distance: Float[Tensor, "B"], box_area: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """L_bg = - L2(Ibar_c, I) / area(b_c): low where inpainting fails (Eq. 3, sampled: Eq. 11).

    With both as shares of the image this is minus the mean square error inside the hole.
    """
    return -distance / box_area


def foreground_loss(composed: Float[Tensor, "B 3 H W"], image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """L_fg = L2(F_c(I), I) (Eq. 2, sampled: Eq. 12)."""
    return square_distance(composed, image)


def flow_foreground_loss(mask: Float[Tensor, "B 1 H W"], motion: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B"]:
    """L2(F_c(I_f), I_f): the flow image is composed as the image is, its colors being those of the foreground.

    What is left is (1 - mask)^2 times `motion`, the square distance of the flow image from its inpainted background:
    motion that the mask leaves out costs. None of the papers has it (they use flow for L_bg alone).
    """
    return ((1 - mask).square() * motion).mean(dim=(1, 2, 3))


def compose(
    foreground: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"], background: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B 3 H W"]:
    """F(I) = T^-1(foreground * mask) + Ibar * (1 - T^-1(mask)); both arguments already pasted (Eq. 1)."""
    return foreground + background * (1 - mask)


def mask_prior(mask: Float[Tensor, "B 1 H W"], kind: str, threshold: float) -> Float[Tensor, "B"]:
    """Prior on the pasted mask T^-1(S).

    v: abs(mean - lambda) + lambda, larger masks wanted below `threshold` (lambda), smaller above (Eq. 6);
    l1: the mean; l2: the mean square (journal version, Table 3); none: 0.
    """
    mean = mask.mean(dim=(1, 2, 3))
    if kind == "v":
        return (mean - threshold).abs() + threshold
    if kind == "l1":
        return mean
    if kind == "l2":
        return mask.square().mean(dim=(1, 2, 3))
    return torch.zeros_like(mean)


def probability_prior(p: Float[Tensor, "B C"], kind: str, selected: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Prior on p.

    l1: sum_c |p_c| (Eq. 5), which is 1 after a softmax and has no gradient; l2: sum_c p_c^2, lowest where all cells are
    alike; l2_selected: the square of the drawn cell's p; margin: 1 - sum_c p_c^2, lowest where one cell has it all, as
    the preprint wants it (section 3.4); none: 0.
    """
    if kind == "l1":
        return p.abs().sum(dim=1)
    if kind == "l2":
        return p.square().sum(dim=1)
    if kind == "margin":
        return 1 - p.square().sum(dim=1)
    if kind == "l2_selected":
        return selected.square()
    return torch.zeros_like(selected)


def box_priors(
    scale: Float[Tensor, "B 2"], offset: Float[Tensor, "B 2"], target: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Squares of (batch-mean scale - target) and of the batch-mean offset (the authors' later code)."""
    scale, offset = ranks.mean(scale.mean(dim=0)), ranks.mean(offset.mean(dim=0))
    return (scale - target).square().mean(), offset.square().mean()


def objective(terms: Mapping[str, Tensor], params: LossParams) -> Float[Tensor, ""]:
    """L_joint: the weighted sum of all terms (Eq. 7).

    Args:
        terms: scalars `bg`, `bg_flow`, `fg`, `fg_flow`, `phi`, `mask`, `p`, `auto`, `scale`, `offset`; a missing one
            counts 0.
    """
    weights = {
        "bg": params.alpha,
        "bg_flow": params.alpha_flow,
        "fg": params.beta,
        "fg_flow": params.beta_flow,
        "phi": params.gamma,
        "mask": params.eta,
        "p": params.zeta,
        "auto": params.autoencoder,
        "scale": params.scale_prior,
        "offset": params.offset_prior,
    }
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
