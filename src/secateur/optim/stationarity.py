"""How far training is from rest: the distance that a step of the gradient and the prox would go.

In: an optimizer, groups and their factors for given norms. Out: a number. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.groups import Groups
from secateur.optim.gradients import sum_up_
from secateur.optim.rates import learning_rates
from secateur.utils.distributed import all_reduce_sum, local


@torch.no_grad()
def stationarity(
    optimizer: Optimizer, groups: Groups, factors_of: Callable[[np.ndarray], np.ndarray]
) -> float:
    """|| theta - prox(theta - lr * grad) || / lr, over the parameters that have a gradient.

    Args:
        optimizer: has the parameters and their learning rates.
        groups: which parameters live and die together.
        factors_of: the prox: norms (m,) -> what each group is multiplied by, (m,).

    Raises:
        RuntimeError: no parameter has both a gradient and a learning rate above 0.
    """
    rates = {p: lr for p, lr in learning_rates(optimizer) if p.grad is not None and lr != 0}
    if not rates:
        raise RuntimeError(
            "stationarity(): call backward() first; no parameter has both a gradient and a "
            "learning rate above 0"
        )
    sum_up_(optimizer.param_groups)
    moved = {p: _in_float64(p).sub_(_in_float64(p.grad), alpha=lr) for p, lr in rates.items()}
    held = [moved.get(m.parameter, local(m.parameter)) for m in groups.members]
    norms = groups.squares(held).sqrt_().cpu().double().numpy()
    padded = groups.pad(torch.from_numpy(factors_of(norms)))
    for member in groups.members:
        if member.parameter in moved:
            member.scale_(padded, moved[member.parameter])

    def add_(parameter: Tensor, total: Tensor) -> None:
        step = _in_float64(parameter).sub_(moved[parameter]).div_(rates[parameter])
        total += step.square().sum().to(total)

    squares = all_reduce_sum(((p, partial(add_, p)) for p in rates), torch.zeros(()).double())
    return float(squares) ** 0.5


def _in_float64(tensor: Tensor | None) -> Tensor:
    """A copy, in the widest floating type of its device, of what this process holds."""
    assert tensor is not None
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    return local(tensor).detach().to(dtype, copy=True)
