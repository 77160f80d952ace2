"""Variance-reduced proximal training, to compare with: Prox-SVRG.

In: closures for the loss on a batch and on all data. Out: steps whose noise vanishes as training
comes to rest, followed by the proximal step of `Proximal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.budget import Budget
from secateur.groups import Groups
from secateur.optim.gradients import watched
from secateur.optim.proximal import Proximal

Closure = Callable[[], Any]


class SVRG(Optimizer):
    """Stochastic gradient descent with variance reduction.

        theta <- theta - lr (g_i(theta) - g_i(snapshot) + g(snapshot))

    where g_i is the gradient of one batch's loss and g that of all data's.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate, 0 or more.

    Raises:
        ValueError: lr is below 0.

    Source: Johnson and Zhang, "Accelerating stochastic gradient descent using predictive variance
    reduction", NeurIPS 2013.
    """

    def __init__(self, params: Any, lr: float) -> None:
        if not float(lr) >= 0:
            raise ValueError(f"lr={lr!r}: expected a learning rate of 0 or more")
        super().__init__(params, {"lr": lr})

    def _parameters(self) -> Iterator[tuple[Tensor, float]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    yield parameter, float(group["lr"])

    def snapshot(self, closure: Closure) -> Any:
        """Remember the parameters as they are, and the gradient of all data there."""
        with torch.enable_grad():
            loss = closure()
        for parameter, _ in self._parameters():
            # One level down, where a Proximal doesn't clear what belongs to dead groups: at another
            # point than the parameters' the gradients would be biased.
            found = {"at": parameter.detach().clone(), "gradient": _gradient(parameter)}
            self.state[parameter]["snapshot"] = found
        return loss

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # pyright: ignore
        """One step; the closure is called twice, here and at the snapshot."""
        if closure is None:
            raise TypeError(
                "step() needs a closure that computes the loss of one batch and its gradients: it "
                "is called at the parameters and at the snapshot"
            )
        parameters = [(p, lr, self.state[p].get("snapshot")) for p, lr in self._parameters()]
        if any(found is None for _, _, found in parameters):
            raise RuntimeError("call snapshot(closure) first, with the loss of all data")
        with torch.enable_grad():
            loss = closure()
        here = [(p.detach().clone(), _gradient(p)) for p, _, _ in parameters]
        for p, _, found in parameters:
            p.copy_(found["at"])
        try:
            with torch.enable_grad():
                closure()
        finally:
            for (p, _, _), (value, _) in zip(parameters, here, strict=True):
                p.copy_(value)
        for (p, lr, found), (_, gradient) in zip(parameters, here, strict=True):
            p.grad = gradient.sub_(_gradient(p)).add_(found["gradient"])
            p.sub_(p.grad, alpha=lr)
        return loss


class ProxSVRG(Proximal):
    """Proximal stochastic gradient descent with variance reduction, on groups and a budget.

    `SVRG`'s step, then the proximal step of `Proximal` with any of its penalties. With a constant
    learning rate plain stochastic steps keep jumping about the solution; these come to rest in it,
    for twice the work a step and a full gradient now and then. The loss of a batch must not depend
    on anything but the parameters: no dropout, no batch normalisation in training mode.

    Args:
        params: as for `SVRG`.
        groups: which parameters live and die together.
        budget: what may be kept.
        lr: the learning rate, 0 or more.
        options: as for `Proximal`: steps, penalty, lam, importance and so on.

    Example:
        >>> import secateur as sc
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> groups = sc.custom(model, {"weight": torch.arange(4).reshape(1, 4)})
        >>> inputs = torch.randn(64, 4)
        >>> optimizer = ProxSVRG(model.parameters(), groups, sc.Budget(groups=2), lr=0.1, steps=16)
        >>> def loss(part):
        ...     optimizer.zero_grad()
        ...     error = (model(inputs[part]) - inputs[part, :1]).square().mean()
        ...     error.backward()
        ...     return error
        >>> for _ in range(4):
        ...     _ = optimizer.snapshot(lambda: loss(slice(None)))
        ...     for start in range(0, 64, 16):
        ...         _ = optimizer.step(lambda: loss(slice(start, start + 16)))
        >>> int(groups.alive().sum())
        2

    Source: Xiao and Zhang, "A proximal stochastic gradient method with progressive variance
    reduction", SIAM Journal on Optimization 24, 2014. Departure: the snapshot is the last iterate,
    not the mean of the last ones.
    """

    optimizer: SVRG

    def __init__(
        self,
        params: Any,
        groups: Groups,
        budget: Budget | Sequence[Budget],
        *,
        lr: float,
        **options: Any,
    ) -> None:
        super().__init__(SVRG(params, lr), groups, budget, **options)

    def snapshot(self, closure: Closure) -> Any:
        """Remember the parameters as they are, and the gradient of all data there.

        Args:
            closure: computes the loss of all data and its gradients, of the scale of one batch's.

        Returns:
            What the closure returns.

        Raises:
            FloatingPointError: a gradient holds NaN or inf; the last snapshot stays.
        """
        return self.optimizer.snapshot(watched(closure, self._look))


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.detach().clone()
