"""Drawing cells: the distribution q and the importance weights p/q (journal version, section 3.4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backdrop.learn import ranks
from backdrop.networks.detector import select
from backdrop.train.parameters import SamplingParams


class Draw(NamedTuple):
    """K cells per image.

    cell: (K, B) the drawn cells.
    weight: (K, B) what the loss of each is multiplied by; its gradient reaches p. The sum over K estimates
        sum_c p_c f(c): p_c/q_c/K for drawn cells, p_c itself where all cells are listed (exact).
    baseline: whether `expectation` subtracts the mean of the other drawn cells.
    """

    cell: Int[Tensor, "K B"]
    weight: Float[Tensor, "K B"]
    baseline: bool


def sampling_distribution(p: Float[Tensor, "B C"], live: Bool[Tensor, "C"], epsilon: float) -> Float[Tensor, "B C"]:
    """q = p (1 - C_live eps) + eps over the live cells, 0 at the others; a constant for the gradient.

    Source: Eq. 10. The journal spreads eps over all C cells; a border cell has p = 0 and is never
    worth a draw, so eps goes to the live ones and q still sums to 1.
    """
    p = p.detach().nan_to_num(0)  # multinomial cannot draw by NaN; the losses still see it and are checked
    return torch.where(live, p * (1 - live.sum() * epsilon) + epsilon, torch.zeros_like(p))


def draw_cells(
    p: Float[Tensor, "B C"],
    live: Bool[Tensor, "C"],
    params: SamplingParams,
    generator: torch.Generator | None = None,
) -> Draw:
    """Draw `sampling.cells` cells per image as `sampling.kind` says (for Eq. 8; Eq. 9: weights p_c / q_c, c ~ q)."""
    batch = len(p)
    if params.kind == "exact":
        cells = live.nonzero().expand(-1, batch)
        return Draw(cells, _pick(p, cells), baseline=False)
    if params.kind == "gumbel":
        return _gumbel(p, params, generator)
    if params.kind == "uniform":
        q = (live / live.sum()).to(p).expand(batch, -1)
    else:
        q = sampling_distribution(p, live, params.epsilon)
    # Every rank draws for the batch of all ranks, by their q: the cells are those that a single process draws.
    drawn = torch.multinomial(ranks.gather(q), params.cells, replacement=True, generator=generator)
    cells = ranks.local_part(drawn).T
    return Draw(cells, _pick(p, cells) / _pick(q, cells) / params.cells, params.baseline == "leave_one_out")


def _gumbel(p: Tensor, params: SamplingParams, generator: torch.Generator | None) -> Draw:
    """Straight-through Gumbel softmax: the drawn cell counts 1, the gradient is the relaxation's (2022 ablation)."""
    cells, weights = [], []
    for _ in range(params.cells):
        uniform = ranks.rand(*p.shape, generator=generator, device=p.device).clamp(1e-9, 1 - 1e-7)
        relaxed = ((p.clamp_min(1e-20).log() - (-uniform.log()).log()) / params.temperature).softmax(dim=1)
        cell = relaxed.argmax(dim=1)
        chosen = relaxed.gather(1, cell[:, None])[:, 0]
        cells.append(cell)
        weights.append((1 + chosen - chosen.detach()) / params.cells)
    return Draw(torch.stack(cells), torch.stack(weights), baseline=False)


def _pick(values: Tensor, cells: Tensor) -> Tensor:
    """(B, C) values at (K, B) cells -> (K, B)."""
    return torch.stack([select(values[..., None], cell)[:, 0] for cell in cells])


def expectation(draw: Draw, value: Float[Tensor, "K B"]) -> Float[Tensor, "B"]:
    """The estimate of sum_c p_c f(c) from the drawn values f, per image.

    With the leave-one-out baseline, each f_k is taken relative to the mean of the other draws' values and
    that mean is added back as a constant: as E[p/q] = 1, the expectation of value and gradient stay what they
    were, and the gradient's variance shrinks. Unbiased because the mean does not depend on draw k.
    """
    if not draw.baseline:
        return (draw.weight * value).sum(dim=0)
    count = len(value)
    others = (value.sum(dim=0) - value) / (count - 1)
    return (draw.weight * (value - others)).sum(dim=0) + others.mean(dim=0)
