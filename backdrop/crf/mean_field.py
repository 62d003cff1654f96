"""Mean field of a CRF with two labels and terms of higher order, unrolled in PyTorch.

The energy of a labeling x (1 = foreground) and of accepted detections y, after Arnab, Jayasumana, Zheng and Torr,
"Higher Order Conditional Random Fields in Deep Neural Networks" (ECCV 2016):

    E(x, y) = unary + sum over pairs i < j of w k_ij [x_i != x_j]                      (Gaussian and bilateral)
            - sum over superpixels s of (r_0 [all of s are 0] + r_1 [all of s are 1])  (P^n Potts)
            + sum over detections d of v s_d sum over i in d of [x_i = y_d's opposite], and -log s_d, -log(1 - s_d)

Their superpixel costs w_low(l) and w_high enter by r_l = w_high - w_low(l) alone: the rest is the same for all
labelings. Their detection weight w_det is v times the pixels of the detection here. Divided by that number a pixel of a
large subject would feel nothing. With two labels a kernel's weight and its compatibility are one number.

Kernels are those of Kraehenbuehl and Koltun (NIPS 2011), normalized symmetrically as in pydensecrf. They are computed
exactly on a neighborhood of taps (`taps`), not on a permutohedral lattice. Everything is a tensor operation on a batch,
on any device, and can be differentiated by logits and weights. An update is made of all pixels at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from backdrop.errors import BackdropError

TAPS_PER_REACH = 5
"""A wide kernel is sampled so often per reach (its sigma) in each direction; a narrow one at each pixel."""

BILATERAL_CUT = 1.3
"""The bilateral kernel ends here, in units of its reach. On ten frames of DAVIS the masks were nearest to those of
pydensecrf with few taps per time if these lie dense rather than far: see docs/structured.md."""

GAUSSIAN_CUT = 3.0
"""The Gaussian kernel ends here. It is separable, so that its width costs little."""

LEAST_EXPONENT = -60.0
"""Kernel values below exp of this are raised to it: CPUs compute slowly with numbers that are nearly 0."""

SUREST_SCORE = 1e-4
"""No detection is surer than this, in either direction."""


class Weights(NamedTuple):
    """Weights of the terms, each at least 0: floats, or scalars that gradients reach.

    unary: of the logit. gaussian, bilateral: of the kernels. background, foreground: r_0 and r_1 of superpixels.
    detection: v.
    """

    unary: Any = 1.0
    gaussian: Any = 0.0
    bilateral: Any = 0.0
    background: Any = 0.0
    foreground: Any = 0.0
    detection: Any = 0.0


Operator = Callable[[torch.Tensor], torch.Tensor]
"""A symmetric linear map of (B, H, W) to (B, H, W)."""


class Terms(NamedTuple):
    """What the image says, beside the logits of B x H x W pixels. None: that term is absent.

    gaussian, bilateral: `Normalized` kernels. superpixels: (B, H, W) int64, numbers from 0. cliques: (B, K, H, W), 1 at
    the pixels of each detection, else 0. scores: (B, K) in [0, 1].
    """

    gaussian: Operator | None = None
    bilateral: Operator | None = None
    superpixels: torch.Tensor | None = None
    cliques: torch.Tensor | None = None
    scores: torch.Tensor | None = None


def taps(sxy: float) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of a wide kernel's neighbors, one of each pair of opposite ones.

    A tap lies in each square of `stride` pixels, at a place that is drawn once and for all: on a regular grid each
    pixel would be joined only to those of its own phase. Up to a reach of 7 pixels these are all pixels.
    """
    stride, rng, found = tap_stride(sxy), np.random.default_rng(0), []
    count = int(BILATERAL_CUT * sxy / stride)
    for row in range(count + 1):
        for column in range(-count, count + 1):
            dy, dx = (stride * place + int(rng.integers(stride)) - stride // 2 for place in (row, column))
            if (row, column) > (0, 0):
                found.append((dy, dx))
    return found


def tap_stride(sxy: float) -> int:
    """Side in pixels of the square for which a tap stands; odd, so that no pair of pixels is joined by two taps."""
    return 2 * (round(sxy / TAPS_PER_REACH) // 2) + 1


def shifted(values: torch.Tensor, dy: int, dx: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of (..., H, W): pixels that have a neighbor at (dy, dx), and those neighbors. Empty where none has."""
    height, width = values.shape[-2:]
    here, there = [], []
    for length, step in ((height, dy), (width, dx)):
        here.append(slice(max(0, -step), max(0, length - max(0, step))))
        there.append(slice(max(0, step), max(0, length + min(0, step))))
    return values[..., here[0], here[1]], values[..., there[0], there[1]]


class GaussianKernel:
    """exp(-|d|^2 / 2 sxy^2) over all pixels up to `GAUSSIAN_CUT` away in each direction, without the pixel itself."""

    area = 1.0

    def __init__(self, sxy: float) -> None:
        self.values = [float(np.exp(-0.5 * (d / sxy) ** 2)) for d in range(1, max(1, int(GAUSSIAN_CUT * sxy)) + 1)]

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        along = values
        for axis in (0, 1):
            total = along.clone()
            for distance, weight in enumerate(self.values, 1):
                step = (distance, 0) if axis == 0 else (0, distance)
                (here, there), (low, high) = shifted(along, *step), shifted(total, *step)
                low.add_(there, alpha=weight)
                high.add_(here, alpha=weight)
            along = total
        return along - values


class BilateralKernel:
    """exp(-|d|^2 / 2 sxy^2 - |color difference|^2 / 2 srgb^2) over `offsets`, without the pixel itself.

    Args:
        image: (B, 3, H, W) floats, gray levels in [0, 255].
        offsets: see `taps`; None: those of `sxy`. area: pixels for which a tap stands.
    """

    def __init__(
        self,
        image: torch.Tensor,
        sxy: float,
        srgb: float,
        offsets: Sequence[tuple[int, int]] | None = None,
        area: float | None = None,
    ) -> None:
        self.area = float(tap_stride(sxy) ** 2) if area is None else area
        height, width = image.shape[-2:]
        wanted = taps(sxy) if offsets is None else offsets
        self.offsets = [(dy, dx) for dy, dx in wanted if abs(dy) < height and abs(dx) < width]
        self.factors = [float(np.exp(-0.5 * (dy**2 + dx**2) / sxy**2)) for dy, dx in self.offsets]
        colors = ((image - 128) / srgb).contiguous()  # about 0, where floats are dense
        halves = -0.5 * colors.square().sum(dim=1)
        self.values = []
        for dy, dx in self.offsets:  # -|a - b|^2 / 2 = a b - a^2 / 2 - b^2 / 2, with the fewest passes over memory
            exponent = torch.add(*shifted(halves, dy, dx))
            for color in colors.unbind(1):
                exponent.addcmul_(*shifted(color, dy, dx))
            self.values.append(exponent.clamp_(LEAST_EXPONENT, 0).exp_())

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(values)
        for (dy, dx), factor, weight in zip(self.offsets, self.factors, self.values, strict=True):
            (here, there), (low, high) = shifted(values, dy, dx), shifted(total, dy, dx)
            low.addcmul_(weight, there, value=factor)
            high.addcmul_(weight, here, value=factor)
        return total


class Normalized:
    """A kernel K as D^-1/2 K D^-1/2, where D is what K sums to at a pixel, itself included (pydensecrf's default)."""

    def __init__(self, kernel: GaussianKernel | BilateralKernel, like: torch.Tensor) -> None:
        """Args: like: (B, H, W), for size, type and device."""
        self.kernel = kernel
        self.scale = (1 + kernel.area * kernel(torch.ones_like(like))).rsqrt()

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return self.kernel.area * self.scale * self.kernel(self.scale * values)


class Symmetric(torch.autograd.Function):
    """An `Operator` with its gradient, which is the operator itself: no tap is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, operator: Operator) -> torch.Tensor:
        ctx.operator = operator
        return operator(values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return ctx.operator(gradient), None


def mean_field(logit: torch.Tensor, weights: Weights, terms: Terms, iterations: int) -> torch.Tensor:
    """The logits of Q(x_i = 1) after so many updates, (B, H, W).

    Detections are judged first in each update, by the pixels as they are: a false box must not act before it has lost.

    Args:
        logit: (B, H, W), the unary's energy of background less that of foreground.

    Raises:
        BackdropError: sizes that do not fit, or values that are not numbers.
    """
    _check(logit, terms)
    unary = weights.unary * logit
    found = unary
    for _ in range(iterations):
        update, lean = unary, 2 * found.sigmoid() - 1  # the expectation of +1 for foreground, -1 for background
        for weight, kernel in ((weights.gaussian, terms.gaussian), (weights.bilateral, terms.bilateral)):
            if kernel is not None:
                update = update + weight * Symmetric.apply(lean, kernel)
        if terms.superpixels is not None:
            agree_0, agree_1 = unanimity(found, terms.superpixels)
            update = update + weights.foreground * agree_1 - weights.background * agree_0
        if terms.cliques is not None and terms.scores is not None:
            strength = weights.detection * terms.scores
            accepted = acceptance(lean, terms.cliques, terms.scores, strength)
            update = update + torch.einsum("bk,bkhw->bhw", strength * (2 * accepted - 1), terms.cliques)
        found = update
    return found


def unanimity(logit: torch.Tensor, superpixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each pixel the probability that all OTHERS of its superpixel are background, and that all are foreground.

    The products of Q are taken as sums of logarithms, which do not underflow.

    Args:
        logit: of Q, (B, H, W). superpixels: (B, H, W) int64.
    """
    count = int(superpixels.max()) + 1
    batch = torch.arange(len(logit), device=logit.device).view(-1, 1, 1)
    index = (superpixels + count * batch).reshape(-1)
    found, flat = [], logit.reshape(-1)
    log_1 = functional.logsigmoid(flat)
    for log in (log_1 - flat, log_1):  # of Q(0) = Q(1) e^-logit, and of Q(1)
        total = torch.zeros(count * len(logit), dtype=log.dtype, device=log.device).index_add(0, index, log)
        found.append((total[index] - log).clamp(max=0).exp().view_as(logit))
    return found[0], found[1]


def acceptance(lean: torch.Tensor, cliques: torch.Tensor, scores: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Q(y_d = 1) of each detection, (B, K): its score, and whether its pixels lean to foreground.

    Args:
        lean: 2 Q(x_i = 1) - 1, (B, H, W). cliques: (B, K, H, W). scores, strength: (B, K); strength is v s_d.
    """
    prior = scores.clamp(SUREST_SCORE, 1 - SUREST_SCORE).logit()
    return (prior + strength * torch.einsum("bhw,bkhw->bk", lean, cliques)).sigmoid()


def _check(logit: torch.Tensor, terms: Terms) -> None:
    if logit.ndim != 3 or not logit.numel() or not logit.is_floating_point():
        raise BackdropError(f"the CRF needs logits (B, H, W) of floats, not {tuple(logit.shape)} of {logit.dtype}")
    if not bool(logit.isfinite().all()):
        raise BackdropError("the CRF's logits hold values that are not numbers, or infinite")
    for name, kernel in (("gaussian", terms.gaussian), ("bilateral", terms.bilateral)):
        if isinstance(kernel, Normalized) and kernel.scale.shape != logit.shape:
            raise BackdropError(f"the {name} kernel is of {tuple(kernel.scale.shape)} pixels, not {tuple(logit.shape)}")
    numbers, cliques, scores = terms.superpixels, terms.cliques, terms.scores
    if numbers is not None and (
        numbers.shape != logit.shape or numbers.dtype != torch.int64 or bool((numbers < 0).any())
    ):
        raise BackdropError(f"superpixels are numbers from 0, int64, of {tuple(logit.shape)}, as the logits")
    if (cliques is None) != (scores is None):
        raise BackdropError("detections need both their pixels and their scores")
    if cliques is None or scores is None:
        return
    if cliques.shape != (len(logit), scores.shape[-1], *logit.shape[1:]) or scores.shape != cliques.shape[:2]:
        raise BackdropError(f"detections of {tuple(cliques.shape)} with scores {tuple(scores.shape)} do not fit logits")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise BackdropError("scores of detections must lie in [0, 1]")
