"""The operators on the values themselves, in place: norms, factors and scaling in a few sweeps.

In: values (..., m, size), a group a row, and a budget. Out: the same tensor, each group multiplied
by its factor. Groups that are spread over several tensors are the groups room's.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from secateur.envelope.firm_operator import firm
from secateur.envelope.inputs import Scalar, read, read_between, read_step
from secateur.envelope.proximal_operator import prox
from secateur.kernels import dispatch


@torch.no_grad()
def prox_(
    values: Tensor, level: Scalar, *, step: Scalar, weights: Scalar = 1.0, costs: Scalar = 1.0
) -> Tensor:
    """Apply the proximal operator of the envelope to groups that are rows, in place.

        argmin_x 1/2 ||x - values||^2 + step S(x)

    Args:
        values: (..., m, size), any floating dtype; size 1 for single weights.
        level: number or (...,), above 0, in the unit of costs.
        step: number or (...,), 0 or more.
        weights: number or broadcastable to (..., m), above 0.
        costs: number or broadcastable to (..., m), above 0.

    Returns:
        values.

    Raises:
        TypeError: values is no floating tensor.
        ValueError: a value is out of its bounds, or shapes do not fit.

    Example:
        >>> prox_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 1, step=1.0)
        tensor([[1.5000, 2.0000],
                [0.0000, 0.0000]])

    Source: Refael, Arbel, Huleihel, arXiv 2212.12921; `prox` gives the factors.
    """
    if loops := _own_slopes(values, weights, costs):
        each = values.squeeze(-1)
        problem = read("prox_", each, level, weights, costs, signed=True)
        step = read_step("prox_", step, problem)
        loops.shrunk(*problem.lines(step), firm=False, into=each)
        return values
    return _scale_(values, prox(_norms(values), level, step=step, weights=weights, costs=costs))


@torch.no_grad()
def firm_(
    values: Tensor, level: Scalar, *, hardness: Scalar, weights: Scalar = 1.0, costs: Scalar = 1.0
) -> Tensor:
    """Apply firm shrinkage to groups that are rows, in place.

    Args:
        values: (..., m, size), any floating dtype; size 1 for single weights.
        level: number or (...,), above 0, in the unit of costs.
        hardness: number or (...,), in [0, 1].
        weights: number or broadcastable to (..., m), above 0.
        costs: number or broadcastable to (..., m), above 0.

    Returns:
        values.

    Raises:
        TypeError: values is no floating tensor.
        ValueError: a value is out of its bounds, or shapes do not fit.

    Example:
        >>> firm_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 1, hardness=1.0)
        tensor([[3., 4.],
                [0., 0.]])

    Source: own; `firm` gives the factors.
    """
    below_one = isinstance(hardness, (int, float)) and hardness < 1
    if below_one and (loops := _own_slopes(values, weights, costs)):
        each = values.squeeze(-1)
        problem = read("firm_", each, level, weights, costs, signed=True)
        rows = read_between("firm_", "hardness", hardness, each, 0, 1)
        loops.shrunk(*problem.lines(rows / (1 - rows)), firm=True, into=each)
        return values
    found = firm(_norms(values), level, hardness=hardness, weights=weights, costs=costs)
    return _scale_(values, found)


def _own_slopes(values: Tensor, weights: Scalar, costs: Scalar) -> ModuleType | None:
    """The compiled loops, where the groups are single weights that these read as their slopes."""
    single = values.ndim > 1 and values.shape[-1] == 1
    if not single or isinstance(weights, Tensor) or isinstance(costs, Tensor):
        return None
    return dispatch.loops(values)


def _norms(values: Tensor) -> Tensor:
    """The norm of each row, (..., m), in float64 where the device has it."""
    if values.ndim < 2 or not values.is_floating_point():
        kind = f"{values.dtype} of shape {tuple(values.shape)}"
        error = ValueError if values.is_floating_point() else TypeError
        raise error(
            f"values: {kind}: expected a floating tensor (..., m, size), a group a row; "
            "for single weights pass values.unsqueeze(-1)."
        )
    if loops := dispatch.loops(values):
        return loops.norms(values)
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    return torch.linalg.vector_norm(values, dim=-1, dtype=dtype)


def _scale_(values: Tensor, factors: Tensor) -> Tensor:
    if loops := dispatch.loops(values):
        return loops.scale_(values, factors)
    return values.mul_(factors.unsqueeze(-1).to(values.dtype))
