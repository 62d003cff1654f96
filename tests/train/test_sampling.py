from __future__ import annotations

import pytest
import torch

from backdrop.networks.detector import live_cells
from backdrop.params import Params
from backdrop.train.parameters import SamplingParams
from backdrop.train.sampling import Draw, draw_cells, expectation, sampling_distribution

GRID = 8
LIVE = live_cells(GRID)
DRAWS = 60_000


def with_(params: Params, **changes: object) -> SamplingParams:
    return params.sampling.model_copy(update=changes)


def probabilities(seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    logits = 2 * torch.randn(1, GRID * GRID, dtype=torch.float64)
    return logits.masked_fill(~LIVE, -1e4).requires_grad_()


def test_q_is_a_distribution_over_live_cells_and_a_constant() -> None:
    p = probabilities().softmax(dim=1)
    q = sampling_distribution(p, LIVE, 0.001)
    assert torch.allclose(q.sum(dim=1), torch.ones(1).double())
    assert (q[:, ~LIVE] == 0).all()
    assert (q[:, LIVE] >= 0.001).all()
    assert not q.requires_grad


@pytest.mark.parametrize(
    ("kind", "cells", "baseline"),
    [("importance", 1, "none"), ("importance", 6, "none"), ("importance", 6, "leave_one_out"), ("uniform", 2, "none")],
)
def test_loss_and_gradient_are_unbiased(params: Params, kind: str, cells: int, baseline: str) -> None:
    """Averaged over many draws, value and gradient equal the exact sum over cells."""
    logits = probabilities()
    f = torch.randn(GRID * GRID, dtype=torch.float64) - 3
    exact = (logits.softmax(dim=1) * f).sum()
    (expected,) = torch.autograd.grad(exact, logits)

    many = logits.expand(DRAWS, -1)
    p = many.softmax(dim=1)
    drawn = draw_cells(
        p, LIVE, with_(params, kind=kind, cells=cells, baseline=baseline), torch.Generator().manual_seed(1)
    )
    values = expectation(drawn, f[drawn.cell])
    error = values.std() / DRAWS**0.5
    assert abs(values.mean() - exact) < 4 * error
    (gradient,) = torch.autograd.grad(values.mean(), logits, retain_graph=True)
    assert drawn.weight.shape == (cells, DRAWS)
    # Each row of `many` is a draw of its own: its gradient is one sample, whose standard error is that of the mean.
    (samples,) = torch.autograd.grad(values.sum(), many)
    errors = samples.std(dim=0) / DRAWS**0.5
    deviation = (gradient - expected)[0].abs()
    assert (deviation < 5 * errors + 1e-12).all()
    assert deviation.max() < 0.05 * expected.abs().max()


def test_the_baseline_shrinks_the_variance_of_the_gradient(params: Params) -> None:
    f = torch.randn(GRID * GRID, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 3
    variance = {}
    for baseline in ("none", "leave_one_out"):
        gradients = []
        for seed in range(400):
            logits = probabilities()
            chosen = with_(params, kind="importance", cells=6, baseline=baseline)
            drawn = draw_cells(logits.softmax(dim=1), LIVE, chosen, torch.Generator().manual_seed(seed))
            (gradient,) = torch.autograd.grad(expectation(drawn, f[drawn.cell]).sum(), logits)
            gradients.append(gradient)
        variance[baseline] = torch.cat(gradients).var(dim=0).sum().item()
    # f has mean -3 and deviation 1: without a baseline the mean alone brings nine times the variance
    assert variance["leave_one_out"] < 0.3 * variance["none"]


def test_exact_lists_every_live_cell_with_its_probability(params: Params) -> None:
    p = probabilities().softmax(dim=1)
    drawn = draw_cells(p, LIVE, with_(params, kind="exact", cells=1, baseline="none"))
    assert drawn.cell.shape == (int(LIVE.sum()), 1)
    assert torch.allclose(drawn.weight.sum(), torch.ones(()).double())


def test_gumbel_draws_follow_p_and_count_one(params: Params) -> None:
    p = probabilities().softmax(dim=1).expand(20_000, -1)
    chosen = with_(params, kind="gumbel", cells=1, baseline="none")
    drawn = draw_cells(p, LIVE, chosen, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn.cell[0], minlength=GRID * GRID) / 20_000
    assert (share - p[0]).abs().max() < 0.015
    assert torch.allclose(drawn.weight, torch.ones_like(drawn.weight))
    assert drawn.weight.requires_grad


def test_expectation_of_a_constant_is_the_constant_with_the_baseline() -> None:
    drawn = Draw(torch.zeros(3, 2, dtype=torch.long), torch.rand(3, 2), baseline=True)
    assert torch.allclose(expectation(drawn, torch.full((3, 2), 7.0)), torch.full((2,), 7.0))
