"""Weights and templates of the instance CRF, learned by back-propagation through its unrolled mean field.

A numbering of subjects means nothing: 1, 2 is as right as 2, 1. So subjects of the truth are first matched to
detections as suits what was found best (Hungarian algorithm), and the loss is taken for that numbering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from backdrop.crf.instance.energy import InstanceTerms, InstanceWeights, instance_mean_field
from backdrop.crf.instance.templates import fitting_shapes
from backdrop.errors import BackdropError


class InstanceExample(NamedTuple):
    """A frame to learn from: its terms, its boxes (D, 4), and what is seen of its K subjects, (K, H, W) bool."""

    terms: InstanceTerms
    boxes: Float[torch.Tensor, "D 4"]
    truth: Bool[torch.Tensor, "K H W"]


def matched_loss(log_q: Float[torch.Tensor, "L H W"], truth: Bool[torch.Tensor, "K H W"]) -> Float[torch.Tensor, ""]:
    """Mean over subjects of the mean over their pixels of -ln Q(the detection that is matched | some detection).

    Whether a pixel is foreground is not the question: the mask says so. The matching is that of the largest sum of soft
    IoU of Q and truth. Subjects without a detection say nothing; NaN if that are all.

    Args:
        log_q: of the labels, row 0 is background.
    """
    who = log_q[1:].log_softmax(dim=0)
    with torch.no_grad():
        q, wanted = log_q[1:].exp().flatten(1), truth.flatten(1).to(log_q)
        shared = wanted @ q.T
        overlap = shared / (wanted.sum(dim=1, keepdim=True) + q.sum(dim=1) - shared).clamp_min(1e-6)
    rows, columns = linear_sum_assignment(-overlap.cpu().numpy())
    losses = [-who[j][truth[i]].mean() for i, j in zip(rows, columns, strict=True) if bool(truth[i].any())]
    return torch.stack(losses).mean() if losses else log_q.new_tensor(float("nan"))


class Learned(NamedTuple):
    """What was learned: floats, and (T, S, S) in [0, 1]. losses: of each step."""

    weights: InstanceWeights
    templates: Float[np.ndarray, "T S S"]
    losses: list[float]


def learn_instances(
    examples: Sequence[InstanceExample],
    start: InstanceWeights,
    templates: Float[np.ndarray, "T S S"],
    iterations: int,
    *,
    steps: int = 200,
    rate: float = 0.05,
    seed: int = 0,
) -> Learned:
    """Weights (and templates) of the least `matched_loss`, by Adam, one example a step.

    Logarithms of weights are learned, so that none becomes negative; those of 0 stay 0. Returned is the mean over the
    last half of the steps.

    Raises:
        BackdropError: there is no example with two detections, or nothing to learn.
    """
    usable = [one for one in examples if len(one.boxes) > 1]
    names = [name for name, value in start._asdict().items() if value > 0]
    if not usable or not names:
        raise BackdropError("no frame has two detections, or all weights are 0: there is nothing to learn from")
    logs = torch.tensor([float(getattr(start, name)) for name in names]).log().requires_grad_()
    shapes = torch.from_numpy(np.asarray(templates, np.float32)).clamp(0.02, 0.98).logit().requires_grad_()
    optimizer = torch.optim.Adam([logs, shapes], lr=rate)
    order = torch.Generator().manual_seed(seed)
    kept, losses = [], []
    for step in range(steps):
        one = usable[int(torch.randint(len(usable), (), generator=order))]
        weights = start._replace(**dict(zip(names, logs.exp().unbind(), strict=True)))
        terms = one.terms
        if "shape" in names:
            terms = terms._replace(shapes=fitting_shapes(terms.soft, one.boxes, shapes.sigmoid()))
        loss = matched_loss(instance_mean_field(terms, weights, iterations), one.truth)
        if not bool(loss.isfinite()):
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if step >= steps // 2:
            kept.append((logs.detach().clone(), shapes.detach().clone()))
    if not kept:
        raise BackdropError("no frame has a subject that a detection matches: there is nothing to learn from")
    mean = torch.stack([one for one, _ in kept]).mean(dim=0).exp().tolist()
    shaped = torch.stack([one for _, one in kept]).mean(dim=0).sigmoid().numpy()
    return Learned(start._replace(**dict(zip(names, mean, strict=True))), shaped, losses)
