"""The group lasso plugs into `Proximal`, and its proximal operator is optimal."""

from __future__ import annotations

import doctest
from types import ModuleType

import numpy as np
import pytest
import torch

import secateur as sc
from baselines import group_lasso, hspg, svrg
from baselines.group_lasso import GroupLasso, shrink
from optim.training import adam_step, gathered, groups_of, network
from secateur.optim.penalties import Problem, Relaxation

M = 30


@pytest.mark.parametrize("module", [group_lasso, hspg, svrg], ids=lambda module: module.__name__)
def test_the_examples_are_true(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_the_group_lasso_s_prox_is_optimal_against_a_fine_grid() -> None:
    """One scalar problem a group: 1/2 (x - a)^2 + step sqrt(d) x over x >= 0."""
    rng = np.random.default_rng(0)
    norms, weights = rng.random(M) + 0.1, rng.random(M) + 0.5
    norms[0] = 0
    allowance = sc.Budget(groups=9).on(groups_of(network()))
    problem = Problem(allowance, norms, weights, Relaxation(np.ones(M)))
    factors, kept = GroupLasso().prox(problem, 0.4, 1)
    grid = np.linspace(0, 1.2, 120_001)[:, None]
    values = (grid - norms) ** 2 / 2 + 0.4 * np.sqrt(weights) * grid
    np.testing.assert_allclose(factors * norms, grid[values.argmin(0), 0], atol=1e-5)
    np.testing.assert_array_equal(kept.multipliers, factors > 0)
    assert 0 < kept.multipliers.sum() < M
    np.testing.assert_array_equal(shrink(norms, weights, 0.0), norms > 0)


def test_it_is_minimal_in_the_optimizer_s_geometry() -> None:
    """h_j (x_j - v_j) + lr lam * (a subgradient of the penalty at x) = 0, for every group."""
    d = torch.rand(M, dtype=torch.float64) + 0.5
    before, optimizer = adam_step(GroupLasso(), lam=0.005, importance=d)
    h = np.asarray(optimizer.geometry(optimizer.optimizer, optimizer.groups))
    assert h.max() / h.min() > 2  # a Euclidean step would be another one
    after = gathered(optimizer.groups)
    assert 0 < sum(bool(x.any()) for x in after) < M
    for j, (v, x) in enumerate(zip(before, after, strict=True)):
        pull, bound = h[j] * (v - x) / (0.1 * 0.005), float(d[j]) ** 0.5
        expected = bound * x / x.norm() if x.any() else pull * min(1, bound / pull.norm())
        torch.testing.assert_close(pull, expected, rtol=2e-4, atol=2e-6)
