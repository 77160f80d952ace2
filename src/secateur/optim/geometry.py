"""The geometry of the proximal step: Euclidean, or that of an adaptive optimizer's own step.

In: an optimizer of the Adam family and its state. Out: h, one number a group, the mean of what the
optimizer divides its step by.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from secateur.groups import Groups, Member
from secateur.optim.importance import above_zero
from secateur.utils.distributed import all_reduce_sum

Reader = Callable[[dict[str, Any], dict[str, Any]], Tensor]


def _adam(state: dict[str, Any], options: dict[str, Any]) -> Tensor:
    square = state["max_exp_avg_sq"] if options.get("amsgrad") else state["exp_avg_sq"]
    return (_in_float32(square) / (1 - options["betas"][1] ** float(state["step"]))).sqrt_()


def _rmsprop(state: dict[str, Any], options: dict[str, Any]) -> Tensor:
    square = _in_float32(state["square_avg"])
    if options["centered"]:
        square = (square - _in_float32(state["grad_avg"]).square()).clamp_(min=0)
    return square.sqrt()


def _adagrad(state: dict[str, Any], options: dict[str, Any]) -> Tensor:
    return _in_float32(state["sum"]).sqrt()


# What each optimizer divides by, but for its eps, from a parameter's state and its group's options.
READERS: dict[type[Optimizer], Reader] = {
    Adam: _adam,
    AdamW: _adam,
    NAdam: _adam,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
}


class Euclidean:
    """h = 1: all groups are measured alike, whatever the optimizer's step was."""

    def __call__(self, optimizer: Optimizer, groups: Groups) -> float:
        return 1.0


class Preconditioner:
    """h_j = the mean over group j of sqrt(second moment) + eps, as the optimizer's step has it.

    Its step is then, group by group, a gradient step in the metric sum_j h_j ||x_j||^2 / 2, and an
    ordinary one for z_j = sqrt(h_j) x_j, to which everything happens.

    A penalty with a lambda is a function of x, so its weights change with the variables:

        argmin_x  1/2 sum_j h_j ||x_j - v_j||^2 + lr lam S(x)
        has norms a_j sqrt(h_j) and weights d_j / h_j for a_j and d_j

    The firm penalty stands for the budget alone, which asks only which groups are zero and is the
    same for z as for x: it is taken of z as it stands, s_j = a_j sqrt(d_j h_j / c_j), and at r = 1
    it is the projection onto the budget in the metric h. (Keeping it a function of x instead, with
    the weights d in the penalty and h in the metric, would give each group a hardness of its own,
    r d_j / h_j, and no r at which all are chosen.)
    """

    def __init__(self, optimizer: Optimizer, groups: Groups) -> None:
        self.reader = next((r for kind, r in READERS.items() if isinstance(optimizer, kind)), None)
        if self.reader is None:
            raise ValueError(
                f"geometry='optimizer': {type(optimizer).__name__} has no preconditioner that is "
                f"known here, only {', '.join(kind.__name__ for kind in READERS)} have; "
                "use geometry='euclidean'"
            )
        ones = _summed(groups, lambda member: torch.ones_like(member.parameter))
        self.sizes = ones.round().numpy()

    def __call__(self, optimizer: Optimizer, groups: Groups) -> np.ndarray:
        """h, (m,), above 0; 1 for all before the first step."""
        options = {id(p): group for group in optimizer.param_groups for p in group["params"]}

        def root(parameter: Tensor) -> Tensor | None:  # as squares are summed
            if not (state := optimizer.state.get(parameter)):
                return None
            mine = options[id(parameter)]
            return self.reader(state, mine).add_(mine["eps"]).sqrt_()  # pyright: ignore

        total = _summed(groups, lambda member: root(member.parameter)).numpy()
        return above_zero(total / self.sizes) if total.any() else np.ones_like(total)


def geometry_of(name: str, optimizer: Optimizer, groups: Groups) -> Euclidean | Preconditioner:
    """The geometry that an argument of `Proximal` names.

    Raises:
        ValueError: an unknown name, or an optimizer whose preconditioner is not known.
    """
    if name not in ("euclidean", "optimizer"):
        raise ValueError(f"geometry={name!r}: expected 'euclidean' or 'optimizer'")
    return Euclidean() if name == "euclidean" else Preconditioner(optimizer, groups)


def _in_float32(tensor: Tensor) -> Tensor:
    """Of float32, or of float64 where it is."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _summed(groups: Groups, values_of: Callable[[Member], Tensor | None]) -> Tensor:
    """Sum the squares of what `values_of` gives for each member, per group: (m,), on the CPU.

    A tensor has the shape of the member's parameter (or of what this process holds of it); None
    stands for zeros.
    """

    def add_(member: Member, total: Tensor) -> None:
        if (values := values_of(member)) is not None:
            member.add_squares_(total, values)

    parts = ((member.parameter, partial(add_, member)) for member in groups.members)
    return all_reduce_sum(parts, torch.zeros(len(groups), dtype=torch.float64, device="cpu"))
