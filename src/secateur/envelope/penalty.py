"""The penalty itself: the group envelope S and its conjugate S* (docs/math.md, section 1).

In: group norms (..., m) and a level. Out: one value a row, (...,).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from secateur.envelope.inputs import Scalar, read
from secateur.envelope.proximal_operator import optimal_multipliers


def value(norms: Tensor, level: Scalar, *, weights: Scalar = 1.0, costs: Scalar = 1.0) -> Tensor:
    """Evaluate the envelope: the convex stand-in for "at most `level` worth of groups".

        S(a) = min { 1/2 sum_j weights_j a_j^2 / u_j : 0 <= u <= 1, sum_j costs_j u_j <= level }

    With costs of 1 and a whole level this is the convex envelope of 1/2 sum_j weights_j a_j^2 on
    the vectors with at most `level` non-zero groups. It is differentiable once in the norms (and
    in nothing else), with gradient weights_j a_j / u_j, and 0 where a_j = 0.

    Args:
        norms: (..., m) group norms a, 0 or more, any floating dtype; computed in float64 where
            the device has it.
        level: number or (...,), above 0, in the unit of costs.
        weights: number or broadcastable to norms, above 0.
        costs: number or broadcastable to norms, above 0.

    Returns:
        S, shape (...,), in the dtype of norms; NaN for a row with a NaN or an infinity.

    Raises:
        TypeError: norms is no floating tensor.
        ValueError: a value is out of its bounds, or shapes do not fit.

    Example:
        >>> value(torch.tensor([3.0, 4.0]), 1)  # (|3| + |4|)^2 / 2
        tensor(24.5000)
        >>> value(torch.tensor([3.0, 4.0]), 2)  # (3^2 + 4^2) / 2
        tensor(12.5000)

    Source: Refael, Arbel, Huleihel, arXiv 2212.12921.
    """
    problem = read("value", norms, level, weights, costs)
    kept = optimal_multipliers(problem, torch.zeros_like(problem.level))
    return _Envelope.apply(norms, kept, problem.weights)


def conjugate(
    norms: Tensor, level: Scalar, *, weights: Scalar = 1.0, costs: Scalar = 1.0
) -> Tensor:
    """Evaluate the conjugate of the envelope: the best `level` worth of groups of a dual point.

        S*(y) = 1/2 max { sum_j u_j ||y_j||^2 / weights_j :
                          0 <= u <= 1, sum_j costs_j u_j <= level }

    Args:
        norms: (..., m) group norms of the dual point y, 0 or more, any floating dtype.
        level: number or (...,), above 0, in the unit of costs.
        weights: number or broadcastable to norms, above 0.
        costs: number or broadcastable to norms, above 0.

    Returns:
        S*, shape (...,), in the dtype of norms; NaN for a row with a NaN or an infinity.

    Raises:
        TypeError: norms is no floating tensor.
        ValueError: a value is out of its bounds, or shapes do not fit.

    Example:
        >>> conjugate(torch.tensor([3.0, 4.0, 1.0]), 2)  # (3^2 + 4^2) / 2
        tensor(12.5000)

    Source: Refael, Arbel, Huleihel, arXiv 2212.12921; for unequal costs the fractional knapsack.
    """
    problem = read("conjugate", norms, level, weights, costs)
    gains = problem.norms.square() / problem.weights
    costs = problem.costs.expand_as(gains)
    order = (gains / costs).argsort(dim=-1, descending=True)
    gains, costs = gains.gather(-1, order), costs.gather(-1, order)
    before = costs.cumsum(-1) - costs
    kept = ((problem.level.unsqueeze(-1) - before) / costs).clamp(0, 1)
    return ((kept * gains).sum(-1) / 2).to(norms.dtype)


class _Envelope(torch.autograd.Function):
    """1/2 sum_j weights_j a_j^2 / u_j with u at its optimum, where only a has a derivative."""

    @staticmethod
    def forward(norms: Tensor, kept: Tensor, weights: Tensor) -> Tensor:
        exact = norms.to(kept)
        return ((weights * exact * (exact / _nonzero(kept))).sum(-1) / 2).to(norms.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, None, None]:
        norms, kept, weights = ctx.saved_tensors
        slope = weights * norms.to(kept) / _nonzero(kept)
        return (grad.unsqueeze(-1) * slope).to(norms.dtype), None, None


def _nonzero(kept: Tensor) -> Tensor:
    """Replace a multiplier of 0 by 1: it belongs to a group of norm 0, and 0/0 counts as 0."""
    return kept + (kept == 0)
