"""The optimizer's step, with the stop at NaN, and what is drawn in an iteration."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch._functorch.config
from lightning_fabric import Fabric
from torch import Tensor, nn

from backdrop.errors import BackdropError
from backdrop.learn import ranks

_SEED_STRIDE = 10_000_019  # prime, so that seeds of different runs do not share streams


def generator_at(seed: int, iteration: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one iteration."""
    return torch.Generator(device).manual_seed(seed * _SEED_STRIDE + iteration)


def cosine(iteration: int, total: int, enabled: bool) -> float:
    """Factor of the learning rate: 1 down to 0 along half a cosine, or 1."""
    return 0.5 * (1 + math.cos(math.pi * iteration / total)) if enabled else 1.0


class Learner:
    """The optimizer's step, with the stop at NaN: the same for every training loop.

    A GPU is not waited for in each iteration. Whether loss and gradients are finite is computed there; where they are
    not, the fused optimizer leaves the weights alone, and the host reads it two iterations later. On a processor it is
    read at once.

    Args:
        network: what is trained; `model` is the same for calls, on the device and shared among the processes.
        optimizer: on a GPU, a fused one.
        compiled: parts for `torch.compile`.
        methods: of the network, to be called as the network is.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        compiled: Sequence[nn.Module] = (),
        methods: Sequence[str] = (),
    ) -> None:
        self.fabric, self.network, self._plain = fabric, network, optimizer
        ranks.share_batch_norm(network, fabric.device)
        compile_parts(compiled)
        self.model, self.optimizer = fabric.setup(network, optimizer)
        for method in methods:
            self.model.mark_forward_method(method)
        self.lag = 2 if fabric.device.type == "cuda" else 0
        self._pending: deque[_IterationNumbers] = deque()

    def learn(
        self,
        iteration: int,
        terms: Mapping[str, Tensor],
        loss: Tensor,
        rates: Sequence[float],
        names: Callable[[], str],
    ) -> None:
        """One step by the gradient of `loss`.

        Args:
            terms: scalars by name, looked at for NaN and infinity.
            rates: the learning rates of the optimizer's groups.
            names: the batch's frames, for a message.

        Raises:
            BackdropError: a term or a gradient of an iteration, at most `lag` before this one, is not finite: names
                the iteration, the term or the parameter, and the frames. No weight was changed by it.
        """
        self.fabric.backward(loss)
        self._watch(iteration, terms, names)
        self.check_pending(self.lag)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # now: gradients need not lie beside the next pass's activations

    def _watch(self, iteration: int, terms: Mapping[str, Tensor], names: Callable[[], str]) -> None:
        gradients = {name: part.grad for name, part in self.network.named_parameters() if part.grad is not None}
        norms = torch._foreach_norm(list(gradients.values()))  # type: ignore[arg-type]
        values = torch.stack([*(value.detach().float() for value in terms.values()), *(n.float() for n in norms)])
        event = None
        if self.lag:
            # A fused optimizer asks for it and then leaves the weights alone.
            self._plain.found_inf = (~values.isfinite().all()).float()  # type: ignore[attr-defined]
        if self.lag and values.is_cuda:
            values = values.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append(_IterationNumbers(iteration, list(terms), list(gradients), values, event, names))

    def check_pending(self, leave: int = 0) -> None:
        """Look at the numbers of all iterations but the last `leave`; before anything is saved, at those of all.

        Raises:
            BackdropError: see `learn`.
        """
        while len(self._pending) > leave:
            self._pending.popleft().check()

    def state(self, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Weights and the optimizer's state, for a checkpoint; the numbers of all iterations are looked at before.

        Args:
            without: prefixes of weights that are left out: of parts that never learn.

        Raises:
            BackdropError: see `learn`.
        """
        self.check_pending()
        weights = {name: value for name, value in self.network.state_dict().items() if not name.startswith(without)}
        return {"network": weights, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Take up what `state` gave.

        Args:
            strict: False: some weights were left out.
        """
        self.network.load_state_dict(state["network"], strict=strict)
        self.optimizer.load_state_dict(state["optimizer"])


class _IterationNumbers(NamedTuple):
    """The numbers of an iteration that must be finite.

    values: the terms of the loss, then the norms of the gradients, on the host once `event` has passed.
    names: gives the batch's frames, for a message.
    """

    iteration: int
    terms: list[str]
    gradients: list[str]
    values: Tensor
    event: torch.cuda.Event | None
    names: Callable[[], str]

    def check(self) -> None:
        if self.event is not None:
            self.event.synchronize()
        finite = self.values.isfinite()
        if finite.all():
            return
        worst = int((~finite).nonzero()[0, 0])
        part = "this process's part of the batch" if ranks.world() > 1 else "the batch"
        frames = f"frames of {part}: {self.names()}"
        if worst < len(self.terms):
            raise BackdropError(
                f"iteration {self.iteration}: the loss term {self.terms[worst]} is {float(self.values[worst])}; "
                f"{frames}. "
                f"Look at these frames, or lower train.rate (or inpainter.rate), and run again"
            )
        raise BackdropError(
            f"iteration {self.iteration}: the gradient of {self.gradients[worst - len(self.terms)]} is not finite; "
            f"{frames}{' (the fault may lie in that of another)' if ranks.world() > 1 else ''}. "
            f"Look at these frames, or lower the rate of this stage, and run again: it goes on from before "
            f"this iteration"
        )


def compile_parts(parts: Sequence[nn.Module]) -> None:
    """`torch.compile` of each in place; names and state stay. The first iteration then takes minutes."""
    if parts:
        # The forward pass takes a gradient, too (`train.model.without_gradient_to`): buffers are needed twice.
        torch._functorch.config.donated_buffer = False
    for part in parts:
        part.compile()
