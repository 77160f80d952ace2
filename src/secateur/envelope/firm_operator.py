"""Firm shrinkage whose threshold the budget determines (docs/math.md, section 3).

In: group norms (..., m), a level and a hardness from 0 (identity) to 1 (projection onto the
budget). Out: one factor a group. `multipliers_at` and `factors` are its two halves for a known
threshold, which the budget room calls inside its own root search.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from secateur.envelope.inputs import Problem, Scalar, read, read_between
from secateur.envelope.root import multipliers_at_root, root, shares
from secateur.kernels import dispatch

ROUNDING = 1e-12  # relative: fractions of a budget are rounded, and so is their sum


@torch.no_grad()
def firm(
    norms: Tensor, level: Scalar, *, hardness: Scalar, weights: Scalar = 1.0, costs: Scalar = 1.0
) -> Tensor:
    """Give the factor by which firm shrinkage at a given hardness multiplies each group.

        argmin_x 1/2 sum_j weights_j ||x_j - v_j||^2
                 + hardness (S(x) - 1/2 sum_j weights_j ||x_j||^2)

    A group is left untouched, shrunk linearly or set to zero as its saliency
    a_j sqrt(weights_j / costs_j) lies above a threshold T, between hardness T and T, or below;
    T is such that the multipliers cost exactly the level. At hardness 1 the groups are kept whole
    in the order of their saliency, ties by index, up to the first that no longer fits (to a
    relative 1e-12). If the non-zero groups fit in the level, none of them changes. Below hardness 1
    the level is met to a few units of rounding of sum(costs) / (1 - hardness).

    Args:
        norms: (..., m) group norms a of v, 0 or more, any floating dtype; computed in float64
            where the device has it.
        level: number or (...,), above 0, in the unit of costs.
        hardness: number or (...,), in [0, 1]; 0 is exactly the identity.
        weights: number or broadcastable to norms, above 0.
        costs: number or broadcastable to norms, above 0.

    Returns:
        Factors (..., m), in [0, 1], in the dtype of norms, without a gradient; NaN for a row with
        a NaN or an infinity.

    Raises:
        TypeError: norms is no floating tensor.
        ValueError: a value is out of its bounds, or shapes do not fit.

    Example:
        >>> norms = torch.tensor([4.0, 3.0, 1.0])
        >>> firm(norms, 1.5, hardness=0.5)  # the threshold is 4
        tensor([1.0000, 0.6667, 0.0000])
        >>> firm(norms, 1, hardness=1.0)
        tensor([1., 0., 0.])

    Source: own derivation on the envelope of arXiv 2212.12921; the shape is the firm threshold of
    Gao and Bruce, "WaveShrink with firm shrinkage", Statistica Sinica 7, 1997.
    """
    problem = read("firm", norms, level, weights, costs)
    rows = read_between("firm", "hardness", hardness, problem.given, 0, 1)
    if isinstance(hardness, Tensor):  # some rows may be at 1: looking would wait for the device
        below = _soft(problem, torch.where(rows == 1, 0, rows))
        found = torch.where((rows == 1).unsqueeze(-1), _projection(problem), below)
    elif hardness == 1:
        found = _projection(problem)
    else:
        found = _soft(problem, rows)
    return found.to(norms.dtype)


def multipliers_at(saliency: np.ndarray, threshold: float, hardness: float) -> np.ndarray:
    """Say how much of each group is kept at a known threshold.

        u = clip((saliency / threshold - hardness) / (1 - hardness), 0, 1)

    In the limits: hardness 1 keeps saliency >= threshold, threshold 0 keeps saliency > 0, and an
    infinite saliency is always kept.

    Args:
        saliency: (m,) float64, a_j sqrt(weights_j / costs_j), 0 or more.
        threshold: 0 or more, inf included.
        hardness: in [0, 1].

    Returns:
        u, (m,) float64, exactly 1 from the threshold on; NaN where saliency or threshold is.

    Example:
        >>> multipliers_at(np.array([4.0, 3.0, 1.0]), threshold=4.0, hardness=0.5)
        array([1. , 0.5, 0. ])
    """
    floor = hardness * threshold
    width = threshold - floor
    if 0 < width < np.inf:
        return np.maximum(np.minimum(saliency, threshold) - floor, 0) / width
    kept = (saliency >= threshold) & (saliency > 0)
    return np.where(np.isnan(saliency + threshold), np.nan, kept)


@overload
def factors(multipliers: np.ndarray, hardness: float | np.ndarray) -> np.ndarray: ...
@overload
def factors(multipliers: Tensor, hardness: float | Tensor) -> Tensor: ...
def factors(multipliers: Any, hardness: Any) -> Any:
    """Turn firm shrinkage's multipliers into factors.

        factor = u / (hardness + (1 - hardness) u)

    which is 0 where u = 0, exactly 1 where u = 1, and exactly 1 everywhere at hardness 0.

    Args:
        multipliers: u in [0, 1], any shape, numpy or torch.
        hardness: in [0, 1], a number or an array that broadcasts.

    Returns:
        Factors in the shape of multipliers.

    Example:
        >>> factors(np.array([1.0, 0.5, 0.0]), hardness=0.5)
        array([1.        , 0.66666667, 0.        ])
    """
    return shares(multipliers, multipliers + hardness * (1 - multipliers))


def _soft(problem: Problem, hardness: Tensor) -> Tensor:
    """Solve for the threshold, 1 / (t (1 - hardness)), for a hardness (...,) under 1."""
    offset = hardness / (1 - hardness)
    if loops := dispatch.loops(problem.given):
        return loops.shrunk(*problem.lines(offset), firm=True)
    slope, offset = problem.slope, offset.unsqueeze(-1)
    t = root(slope, offset, problem.costs, problem.level)
    return factors(multipliers_at_root(t, slope, offset), hardness.unsqueeze(-1))


def _projection(problem: Problem) -> Tensor:
    """Keep groups whole, in the order of their saliency, as long as the level allows."""
    saliency = problem.slope
    level = problem.level.unsqueeze(-1)
    order = saliency.argsort(dim=-1, descending=True, stable=True)
    spent = problem.costs.expand_as(saliency).gather(-1, order).cumsum(-1)
    fits = (spent <= level * (1 + ROUNDING)).to(saliency)
    kept = torch.zeros_like(saliency).scatter_(-1, order, fits)
    alive = saliency > 0
    all_fit = (alive * problem.costs).sum(-1, keepdim=True) <= level
    return torch.where(level.isnan(), level, torch.where(all_fit, 1.0, kept) * alive)
