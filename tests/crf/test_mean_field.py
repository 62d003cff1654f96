"""The mean field of higher order against brute force over all labelings of a tiny image, and its gradients."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from backdrop.crf.mean_field import (
    BILATERAL_CUT,
    BilateralKernel,
    GaussianKernel,
    Normalized,
    Terms,
    Weights,
    acceptance,
    mean_field,
    tap_stride,
    taps,
)
from backdrop.errors import BackdropError

SIDE = 3
N = SIDE * SIDE
LABELINGS = torch.tensor(list(product((0, 1), repeat=N)))  # (512, 9)
NUMBERS = torch.tensor([[0, 0, 1], [0, 2, 1], [0, 2, 1]])
BOX = torch.tensor([[0, 1, 1], [0, 1, 1], [0, 0, 0]])
FULL = Weights(1.3, 0.7, 1.9, 0.8, 1.6, 0.4)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full_terms(batch: int = 1, side: int = SIDE, seed: int = 0) -> Terms:
    image = 255 * rand(batch, 3, side, side, seed=seed)
    like = image[:, 0]
    repeat = (batch, 1, 1)
    return Terms(
        Normalized(GaussianKernel(1.0), like),
        Normalized(BilateralKernel(image, 3.0, 90.0), like),
        NUMBERS.repeat(repeat) if side == SIDE else (torch.arange(side * side) // 7).view(1, side, side).repeat(repeat),
        BOX.double().repeat(repeat)[:, None] if side == SIDE else (rand(batch, 1, side, side, seed=9) > 0.5).double(),
        0.6 + 0.3 * rand(batch, 1, seed=5),
    )


def matrix(kernel: Normalized) -> torch.Tensor:
    """The kernel as (9, 9): what it makes of each single pixel."""
    return torch.stack([kernel(one.view(1, SIDE, SIDE)).flatten() for one in torch.eye(N, dtype=torch.float64)])


def energies(logit: torch.Tensor, weights: Weights, terms: Terms, accepted: int | None = None) -> torch.Tensor:
    """E of each labeling, (512,), by the sums of the definition. accepted: y; None: there is no detection."""
    x, unary = LABELINGS, weights.unary * logit.flatten()
    total = -(x * unary).sum(dim=1)
    for weight, kernel in ((weights.gaussian, terms.gaussian), (weights.bilateral, terms.bilateral)):
        if kernel is not None:
            k = matrix(kernel)  # type: ignore[arg-type]
            for i in range(N):
                for j in range(i):
                    total = total + weight * k[i, j] * (x[:, i] != x[:, j])
    if terms.superpixels is not None:
        numbers = terms.superpixels.flatten()
        for number in numbers.unique():
            part = x[:, numbers == number]
            total = total - weights.foreground * (part == 1).all(dim=1) - weights.background * (part == 0).all(dim=1)
    if terms.cliques is not None and accepted is not None:
        score, pixels = float(terms.scores[0, 0]), x[:, terms.cliques.flatten() > 0]  # type: ignore[index]
        total = total + weights.detection * score * (pixels != accepted).sum(dim=1)
        total = total - np.log(score if accepted else 1 - score)
    return total


def probabilities(q: torch.Tensor) -> torch.Tensor:
    """Q of each labeling, (512,)."""
    return torch.where(LABELINGS == 1, q.flatten(), 1 - q.flatten()).prod(dim=1)


def expected_update(q: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    """E[E | x_i = 0] - E[E | x_i = 1] under Q of the other pixels: the new logit of each pixel."""
    chance, found = probabilities(q), []
    for i, own in enumerate(q.flatten()):
        one = LABELINGS[:, i] == 1
        found.append((chance * energy)[~one].sum() / (1 - own) - (chance * energy)[one].sum() / own)
    return torch.stack(found).view(1, SIDE, SIDE)


TERMS = {
    "gaussian": (0.0, 0.7, 0.0, 0.0, 0.0, 0.0),
    "bilateral": (0.0, 0.0, 1.9, 0.0, 0.0, 0.0),
    "superpixels": (0.0, 0.0, 0.0, 0.8, 1.6, 0.0),
    "all but detections": (1.3, 0.7, 1.9, 0.8, 1.6, 0.0),
}


@pytest.mark.parametrize("name", TERMS)
def test_an_update_is_the_expectation_over_all_labelings(name: str) -> None:
    weights, terms = Weights(*TERMS[name]), full_terms()._replace(cliques=None, scores=None)
    logit = 4 * rand(1, SIDE, SIDE, seed=2) - 2
    before = mean_field(logit, weights._replace(unary=1.0), terms, 0)
    energy = energies(logit, weights, terms)
    wanted = expected_update(before.sigmoid(), energy)
    # one update from Q = sigmoid(logit): the unary's own weight must not move the start
    started = mean_field(logit, weights._replace(unary=1.0), terms, 1) - (1 - weights.unary) * logit
    torch.testing.assert_close(started, wanted)


@pytest.mark.parametrize("score", [0.55, 0.9])
def test_a_detection_is_judged_by_the_expectation_over_all_labelings(score: float) -> None:
    weights = Weights(1.0, detection=0.4)
    terms = Terms(cliques=BOX.double()[None, None], scores=torch.tensor([[score]], dtype=torch.float64))
    logit = 4 * rand(1, SIDE, SIDE, seed=2) - 2
    q = logit.sigmoid()
    by_y = [energies(logit, weights, terms, y) for y in (0, 1)]
    rejected, accepted = ((probabilities(q) * energy).sum() for energy in by_y)
    strength = weights.detection * terms.scores  # type: ignore[operator]
    found = acceptance(2 * q - 1, terms.cliques, terms.scores, strength)  # type: ignore[arg-type]
    torch.testing.assert_close(found[0, 0], (rejected - accepted).sigmoid())
    energy = (1 - found[0, 0]) * by_y[0] + found[0, 0] * by_y[1]
    torch.testing.assert_close(mean_field(logit, weights, terms, 1), expected_update(q, energy))


def free_energy(logit: torch.Tensor, q: torch.Tensor, weights: Weights, terms: Terms) -> float:
    """E_Q[E] less the entropy of Q, with the best Q(y)."""
    y = acceptance(2 * q - 1, terms.cliques, terms.scores, weights.detection * terms.scores)[0, 0]  # type: ignore
    by_y = torch.stack([(probabilities(q) * energies(logit, weights, terms, k)).sum() for k in (0, 1)])
    entropy = -sum((p * p.log() + (1 - p) * (1 - p).log()).sum() for p in (q, y))
    return float((1 - y) * by_y[0] + y * by_y[1] - entropy)


def test_the_fixed_point_lowers_the_free_energy() -> None:
    terms, logit = full_terms(), 4 * rand(1, SIDE, SIDE, seed=3) - 2
    values = [free_energy(logit, mean_field(logit, FULL, terms, n).sigmoid(), FULL, terms) for n in (0, 2, 60)]
    assert values[0] > values[1] > values[2] - 1e-9
    last, after = (mean_field(logit, FULL, terms, n) for n in (60, 61))
    torch.testing.assert_close(last, after)
    for seed in range(5):  # no Q near the fixed point is better
        near = (last + 0.1 * (rand(1, SIDE, SIDE, seed=seed) - 0.5)).sigmoid()
        assert free_energy(logit, near, FULL, terms) > values[2]


def test_gradients_are_those_of_finite_differences() -> None:
    logit = (4 * rand(2, 6, 6, seed=4) - 2).requires_grad_()
    terms = full_terms(2, 6)
    weights = torch.tensor(list(FULL), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, w: mean_field(z, Weights(*w.unbind()), terms, 3), (logit, weights))


def test_a_batch_is_its_images_one_by_one() -> None:
    logit, terms = 4 * rand(3, 6, 6, seed=4) - 2, full_terms(3, 6)
    together, images = mean_field(logit, FULL, terms, 4), 255 * rand(3, 3, 6, 6)
    for k in range(3):
        part = slice(k, k + 1)
        kernels = (
            Normalized(own, logit[part]) for own in (GaussianKernel(1.0), BilateralKernel(images[part], 3, 90.0))
        )
        own = Terms(*kernels, *(values[part] for values in terms[2:]))  # type: ignore[index]
        torch.testing.assert_close(mean_field(logit[part], FULL, own, 4)[0], together[k])


def test_a_false_box_loses_and_a_true_one_wins() -> None:
    box = torch.zeros(1, 1, 8, 8)
    box[..., 2:6, 2:6] = 1
    terms = Terms(cliques=box, scores=torch.tensor([[0.8]]))
    background = torch.full((1, 8, 8), -1.0)
    weak = background.clone()
    weak[0, 2:6, 2:5] = 1.0  # three quarters of the box
    lost, won = (mean_field(one, Weights(detection=2.0), terms, 5) > 0 for one in (background, weak))
    assert not lost.any()
    torch.testing.assert_close(won, box[0] > 0)
    blind = mean_field(torch.zeros(1, 8, 8), Weights(detection=2.0), terms._replace(scores=torch.tensor([[0.2]])), 5)
    assert not (blind > 0).any()  # nothing speaks for a box that D itself doubts


def test_kernels_equal_their_formula() -> None:
    image = 255 * rand(1, 3, 5, 7)
    kernel, gaussian = BilateralKernel(image, 3.0, 60.0), GaussianKernel(1.0)
    colors, reach = image[0].flatten(1).T / 60, int(BILATERAL_CUT * 3)
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij"))
    apart = [(axis[:, None] - axis[None]).abs() for axis in (y, x)]
    far = (apart[0] ** 2 + apart[1] ** 2).double()
    others = ~torch.eye(35, dtype=torch.bool)
    color = (colors[:, None] - colors[None]).square().sum(dim=2)
    wanted = torch.exp(-far / 18 - color / 2) * (torch.maximum(*apart) <= reach) * others
    values = rand(1, 5, 7, seed=1)
    torch.testing.assert_close(kernel(values).flatten(), wanted @ values.flatten())
    wanted = torch.exp(-far / 2) * (torch.maximum(*apart) <= 3) * others
    torch.testing.assert_close(gaussian(values).flatten(), wanted @ values.flatten())


@pytest.mark.parametrize("sxy", [1, 3, 7.4, 7.6, 15, 30, 80])
def test_no_pair_is_joined_twice_and_all_phases_are_met(sxy: float) -> None:
    found = taps(sxy)
    assert len({*found, *((-dy, -dx) for dy, dx in found)}) == 2 * len(found)
    assert (0, 0) not in found
    if tap_stride(sxy) == 1:
        assert len(found) == ((2 * int(BILATERAL_CUT * sxy) + 1) ** 2 - 1) // 2
    else:
        assert len({(dy % tap_stride(sxy), dx % tap_stride(sxy)) for dy, dx in found}) > 5


def test_sure_masks_and_large_superpixels_neither_underflow_nor_lose_their_gradient() -> None:
    logit = torch.full((1, 40, 40), 200.0).requires_grad_()
    terms = Terms(superpixels=torch.zeros(1, 40, 40, dtype=torch.int64))
    found = mean_field(logit, Weights(background=1.0, foreground=1.0), terms, 2)
    torch.testing.assert_close(found, torch.full_like(found, 201.0))
    found.sum().backward()
    assert bool(logit.grad.isfinite().all())  # type: ignore[union-attr]


BAD = {
    "logits": (torch.zeros(4, 4), Terms()),
    "floats": (torch.zeros(1, 4, 4, dtype=torch.int64), Terms()),
    "not numbers": (torch.full((1, 4, 4), torch.nan), Terms()),
    "infinite": (torch.full((1, 4, 4), torch.inf), Terms()),
    "gaussian kernel": (torch.zeros(1, 4, 4), Terms(gaussian=Normalized(GaussianKernel(1.0), torch.zeros(1, 4, 5)))),
    "superpixels": (torch.zeros(1, 4, 4), Terms(superpixels=torch.zeros(1, 4, 5, dtype=torch.int64))),
    "int64": (torch.zeros(1, 4, 4), Terms(superpixels=torch.zeros(1, 4, 4))),
    "from 0": (torch.zeros(1, 4, 4), Terms(superpixels=torch.full((1, 4, 4), -1))),
    "both": (torch.zeros(1, 4, 4), Terms(cliques=torch.zeros(1, 1, 4, 4))),
    "do not fit": (torch.zeros(1, 4, 4), Terms(cliques=torch.zeros(1, 2, 4, 4), scores=torch.zeros(1, 1))),
    "scores": (torch.zeros(1, 4, 4), Terms(cliques=torch.zeros(1, 1, 4, 4), scores=torch.tensor([[1.5]]))),
    "scores of": (torch.zeros(1, 4, 4), Terms(cliques=torch.zeros(1, 1, 4, 4), scores=torch.tensor([[torch.nan]]))),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_is_named(said: str) -> None:
    with pytest.raises(BackdropError, match=said):
        mean_field(BAD[said][0], Weights(), BAD[said][1], 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same() -> None:
    logit, image = 4 * rand(2, 40, 50).float() - 2, 255 * rand(2, 3, 40, 50).float()
    found = []
    for device in ("cpu", "cuda"):
        kernel = Normalized(BilateralKernel(image.to(device), 9.0, 40.0), logit.to(device))
        numbers = (torch.arange(2000, device=device) // 50).view(1, 40, 50).repeat(2, 1, 1)
        found.append(mean_field(logit.to(device), FULL, Terms(bilateral=kernel, superpixels=numbers), 5).cpu())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
