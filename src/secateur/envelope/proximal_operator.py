"""The proximal operator of the envelope (docs/math.md, section 2).

In: group norms (..., m), a level and a step. Out: the multipliers, or the factor of each group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.envelope.inputs import Problem, Scalar, read, read_step
from secateur.envelope.root import multipliers_at_root, root, shares
from secateur.kernels import dispatch


@torch.no_grad()
def multipliers(
    norms: Tensor, level: Scalar, *, step: Scalar, weights: Scalar = 1.0, costs: Scalar = 1.0
) -> Tensor:
    """Say how much of each group the proximal operator keeps.

        u_j = clip(t a_j sqrt(weights_j / costs_j) - step weights_j, 0, 1)

    with t such that sum_j costs_j u_j = level; u_j = 1 on every non-zero group if those fit in
    the level. With step 0 these are the multipliers of the envelope itself.

    Args:
        norms: (..., m) group norms a, 0 or more, any floating dtype; computed in float64 where
            the device has it.
        level: number or (...,), above 0, in the unit of costs.
        step: number or (...,), 0 or more: lambda, the learning rate times the penalty's strength.
        weights: number or broadcastable to norms, above 0.
        costs: number or broadcastable to norms, above 0.

    Returns:
        u, shape (..., m), in [0, 1], in the dtype of norms, without a gradient; NaN for a row
        with a NaN or an infinity.

    Raises:
        TypeError: norms is no floating tensor.
        ValueError: a value is out of its bounds, or shapes do not fit.

    Example:
        >>> multipliers(torch.tensor([4.0, 2.0, 1.0]), 2, step=0.0)
        tensor([1.0000, 0.6667, 0.3333])

    Source: Refael, Arbel, Huleihel, arXiv 2212.12921. There t multiplies sqrt(step) as well;
    leaving it out changes t, not u, and makes step 0 an ordinary value.
    """
    problem = read("multipliers", norms, level, weights, costs)
    step = read_step("multipliers", step, problem)
    return optimal_multipliers(problem, step).to(norms.dtype)


@torch.no_grad()
def prox(
    norms: Tensor, level: Scalar, *, step: Scalar, weights: Scalar = 1.0, costs: Scalar = 1.0
) -> Tensor:
    """Give the factor by which the proximal operator of the envelope multiplies each group.

        prox(v) = argmin_x 1/2 ||x - v||^2 + step S(x),    x_j = v_j u_j / (u_j + step weights_j)

    with u of `multipliers`. In a metric h_j (a preconditioned step) the same formula holds for
    `prox(norms * h.sqrt(), level, step=step, weights=weights / h, costs=costs)`.

    Args:
        norms: (..., m) group norms of v, 0 or more, any floating dtype; computed in float64
            where the device has it.
        level: number or (...,), above 0, in the unit of costs.
        step: number or (...,), 0 or more: lambda. 0 is exactly the identity.
        weights: number or broadcastable to norms, above 0.
        costs: number or broadcastable to norms, above 0.

    Returns:
        Factors (..., m), in [0, 1], in the dtype of norms, without a gradient; NaN for a row with
        a NaN or an infinity.

    Raises:
        TypeError: norms is no floating tensor.
        ValueError: a value is out of its bounds, or shapes do not fit.

    Example:
        >>> prox(torch.tensor([4.0, 1.0]), 1, step=1.0)  # u = (1, 0)
        tensor([0.5000, 0.0000])

    Source: Refael, Arbel, Huleihel, arXiv 2212.12921.
    """
    problem = read("prox", norms, level, weights, costs)
    step = read_step("prox", step, problem)
    if loops := dispatch.loops(problem.given):
        return loops.shrunk(*problem.lines(step), firm=False).to(norms.dtype)
    kept = optimal_multipliers(problem, step)
    whole = kept + step.unsqueeze(-1) * problem.weights
    return shares(kept, whole).to(norms.dtype)


def optimal_multipliers(problem: Problem, step: Tensor) -> Tensor:
    """Solve a checked problem for its multipliers, in the working precision; step is (...,)."""
    offset = step.unsqueeze(-1) * problem.weights
    t = root(problem.slope, offset, problem.costs, problem.level)
    return multipliers_at_root(t, problem.slope, offset)
