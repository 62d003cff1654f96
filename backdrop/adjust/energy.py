"""What boxes and skeletons share: robust terms, the minimum over candidates, and L-BFGS.

The form is that of Arnab, Doersch and Zisserman, "Exploiting temporal context for 3D human pose estimation in the
wild" (CVPR 2019): E = E_R + E_T + E_P. In a frame with several detections the best matching one counts, and one that
is farther than a limit costs no more than the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import huber_loss

SEARCH_STEPS = 200
"""Steps of L-BFGS, at most."""


def robust(residual: Float[Tensor, "*n"], delta: float = 1.0) -> Float[Tensor, "*n"]:
    """Huber's function, element by element: r^2 / 2 up to `delta`, a line beyond it."""
    return huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=delta)


def best_truncated(
    costs: Float[Tensor, "T P"], there: Bool[Tensor, "T P"], limit: float | Float[Tensor, ""]
) -> Float[Tensor, "T"]:
    """min(min_p cost, limit) for each frame; `limit` where there is no candidate. The limit has no gradient."""
    if not costs.shape[1]:
        return torch.full(costs.shape[:1], float(limit), dtype=costs.dtype)
    best = torch.where(there, costs, torch.inf).amin(dim=1)
    return best.clamp(max=float(limit))


def changes(values: Float[Tensor, "T *n"], times: Float[Tensor, "T"], order: int) -> Float[Tensor, "t *n"]:
    """First differences (a motion per unit of time) or second ones (its change) of neighbors.

    Args:
        times: of the rows, ascending. With steps of 1 these are the plain differences.
        order: 1 or 2. There are T - order rows, none if T is smaller.
    """
    shape = (-1, *(1 for _ in values.shape[1:]))
    first = values.diff(dim=0) / times.diff().reshape(shape)
    return first.diff(dim=0) if order == 2 else first


def minimize_energy(energy: Callable[..., Tensor], start: Sequence[Tensor], steps: int = SEARCH_STEPS) -> list[Tensor]:
    """Where L-BFGS (torch's, with a line search by the strong Wolfe conditions) ends, from a start.

    Args:
        energy: of as many tensors as `start` has; a number that can be differentiated.

    Returns:
        Tensors of the same shapes. The start itself, if the end is not below it (or is not finite).
    """
    unknown = [one.detach().clone().requires_grad_() for one in start]
    before = float(energy(*start))
    search = torch.optim.LBFGS(
        unknown, max_iter=steps, history_size=20, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    def evaluate() -> Tensor:
        search.zero_grad()
        value = energy(*unknown)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(evaluate)  # type: ignore[arg-type]
    with torch.no_grad():
        after = float(energy(*unknown))
    return [one.detach() for one in unknown] if after < before else list(start)
