"""What one proximal step does to the groups: the three penalties.

In: group norms and weights, an allowance, and how hard it presses. Out: the factor that each group
is multiplied by, and how much of it is kept, from which the next step goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur import envelope
from secateur.budget import Allowance, NMAllowance, UniformAllowance
from secateur.envelope.firm_operator import factors
from secateur.envelope.root import multipliers_by_segment, shares
from secateur.optim.importance import above_zero


@dataclass(frozen=True, eq=False)
class Kept:
    """How much of each group the last step kept: multipliers u, (m,), and the threshold found."""

    multipliers: np.ndarray
    threshold: float | None = None


def saliency(
    allowance: Allowance | NMAllowance,
    norms: np.ndarray,
    weights: np.ndarray,
    multipliers: np.ndarray,
) -> np.ndarray:
    """s_j = a_j sqrt(d_j / c_j): what a group is worth per unit of what it costs now, (m,)."""
    return norms * np.sqrt(weights / above_zero(allowance.slopes(multipliers)))


def firm(
    allowance: Allowance | NMAllowance,
    norms: np.ndarray,
    weights: np.ndarray,
    hardness: float,
    last: Kept,
) -> tuple[np.ndarray, Kept]:
    """Firm shrinkage whose threshold is such that the network's true cost equals the budget.

        factor_j = u_j / (r + (1 - r) u_j),    u_j = clip((s_j / T - r) / (1 - r), 0, 1)

    Args:
        allowance: the budget.
        norms: a, float64 of shape (m,).
        weights: d, (m,), above 0.
        hardness: r in (0, 1).
        last: of the step before; the costs c are those at its multipliers.

    Returns:
        (factors, kept): the factors have shape (m,) and lie in [0, 1].

    Source: own; docs/math.md, sections 3 and 5.
    """
    worth = saliency(allowance, norms, weights, last.multipliers)
    kept = Kept(*allowance.relax(worth, hardness, start=last.threshold))
    return factors(kept.multipliers, hardness), kept


def convex(
    allowance: Allowance | NMAllowance,
    norms: np.ndarray,
    weights: np.ndarray,
    step: float,
    last: Kept,
) -> tuple[np.ndarray, Kept]:
    """The proximal operator of the paper's penalty, step * S.

    The cost is made linear around the last multipliers, in the measure that is tightest there.

    Args:
        allowance: the budget.
        norms: a, float64 of shape (m,).
        weights: d, (m,), above 0.
        step: the learning rate times lambda, 0 or more.
        last: of the step before.

    Returns:
        (factors, kept): the factors have shape (m,) and lie in [0, 1].

    Source: arXiv 2212.12921; `secateur.envelope.prox`.
    """
    values, strength = torch.from_numpy(norms), torch.from_numpy(np.array(weights))
    if isinstance(allowance, UniformAllowance):
        return _convex_by_layer(allowance, values, strength, step)
    now = last.multipliers
    shares = {m: spent / allowance.limits[m] for m, spent in allowance.spent(now).items()}
    tightest = max(shares, key=lambda measure: shares[measure])
    cost, limit = allowance.costs[tightest], allowance.limits[tightest]
    costs = cost.gradient(now)
    level = float(limit - cost(now) + costs @ now)
    options = {"step": step, "weights": strength, "costs": torch.from_numpy(above_zero(costs))}
    kept = Kept(envelope.multipliers(values, level, **options).numpy())
    return envelope.prox(values, level, **options).numpy(), kept


def _convex_by_layer(
    allowance: UniformAllowance, norms: Tensor, weights: Tensor, step: float
) -> tuple[np.ndarray, Kept]:
    """The sum of one envelope a layer, each with a level of its own, as the paper has it."""
    slope, offset = norms * weights.sqrt(), (step * weights).expand_as(norms)
    levels, bounds = torch.from_numpy(allowance.levels), torch.from_numpy(allowance.bounds)
    kept, _ = multipliers_by_segment(slope, offset, levels, bounds)
    return shares(kept, kept + offset).numpy(), Kept(kept.numpy())


def lasso(norms: np.ndarray, weights: np.ndarray, step: float) -> tuple[np.ndarray, Kept]:
    """The proximal operator of the group lasso, step * sum_j sqrt(d_j) a_j.

        factor_j = max(0, 1 - step sqrt(d_j) / a_j)

    Args:
        norms: a, float64 of shape (m,).
        weights: d, (m,), above 0.
        step: the learning rate times lambda, 0 or more.

    Returns:
        (factors, kept): what is kept is all that is not zero, with no threshold.

    Example:
        >>> lasso(np.array([4.0, 1.0, 0.0]), np.array([1.0, 4.0, 1.0]), step=1.0)[0]
        array([0.75, 0.  , 0.  ])

    Source: Yuan and Lin, "Model selection and estimation in regression with grouped variables",
    Journal of the Royal Statistical Society B 68, 2006.
    """
    left = np.maximum(norms - step * np.sqrt(weights), 0)
    factors = np.divide(left, norms, out=np.zeros_like(norms), where=norms > 0)
    return factors, Kept((factors > 0).astype(float))
