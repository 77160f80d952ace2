"""Both penalties against the envelope room's own functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import secateur as sc
from optim.training import groups_of, network
from secateur import envelope
from secateur.optim.penalties import Envelope, Firm, Problem, Relaxation

M = 30
WHOLE = Relaxation(np.ones(M))


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(M) + 0.1, rng.random(M) + 0.5


@pytest.mark.parametrize("hardness", [0.05, 0.5, 0.95])
def test_on_a_count_firm_is_the_envelope_room_s(hardness: float) -> None:
    """Where no layer's floor is in the way: the strongest of each layer are kept whole anyway."""
    norms, weights = problem()
    norms[[0, 6, 14]] = 10
    allowance = sc.Budget(groups=9).on(groups_of(network()))
    factors, kept = Firm().prox(Problem(allowance, norms, weights, WHOLE), hardness, 1)
    expected = envelope.firm(
        torch.from_numpy(norms), 9, hardness=hardness, weights=torch.from_numpy(weights)
    )
    np.testing.assert_allclose(factors, expected, atol=1e-9)
    assert kept.multipliers.sum() == pytest.approx(9)


def test_saliency_is_worth_per_cost() -> None:
    groups = groups_of(network())
    norms, weights = problem()
    allowance = sc.Budget(params=0.5).on(groups)
    costs = allowance.costs["params"].gradient(np.ones(M)) / allowance.limits["params"]
    found = Problem(allowance, norms, weights, WHOLE).saliency()
    np.testing.assert_allclose(found, norms * np.sqrt(weights / costs), rtol=1e-12)


@pytest.mark.parametrize("step", [0.0, 0.1, 2.0])
def test_on_a_count_convex_is_the_envelope_s_prox(step: float) -> None:
    norms, weights = problem()
    allowance = sc.Budget(groups=9).on(groups_of(network()))
    factors, kept = Envelope().prox(Problem(allowance, norms, weights, WHOLE), step, 1)
    options = {"step": step, "weights": torch.from_numpy(weights)}
    expected = envelope.prox(torch.from_numpy(norms), 9, **options)
    np.testing.assert_allclose(factors, expected, atol=1e-12)
    multipliers = envelope.multipliers(torch.from_numpy(norms), 9, **options)
    np.testing.assert_allclose(kept.multipliers, multipliers, atol=1e-12)
    if step == 0:
        np.testing.assert_array_equal(factors, 1)


def test_convex_settles_on_the_true_cost_of_the_tightest_measure() -> None:
    """Linear around the last step, the cost is exact where the steps come to rest."""
    norms, weights = problem()
    allowance = sc.Budget(flops=0.9, params=0.2).on(groups_of(network()))
    kept = WHOLE
    for _ in range(100):
        _, kept = Envelope().prox(Problem(allowance, norms, weights, kept), 0.1, 1)
    spent = allowance.spent(kept.multipliers)
    assert spent["params"] == pytest.approx(allowance.limits["params"], rel=1e-6)
    assert spent["flops"] <= allowance.limits["flops"]


def test_a_layer_that_is_gone_does_not_stop_the_convex_penalty() -> None:
    """Where a layer has no group left, its neighbours cost nothing now: still no division by 0."""
    norms, weights = problem()
    allowance = sc.Budget(flops=0.3).on(groups_of(network()))
    gone = np.ones(M)
    gone[6:14] = 0
    factors, _ = Envelope().prox(Problem(allowance, norms, weights, Relaxation(gone)), 0.1, 1)
    assert np.isfinite(factors).all()
    assert ((factors >= 0) & (factors <= 1)).all()
