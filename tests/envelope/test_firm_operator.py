"""Firm shrinkage: its convex problem, its two limits, and the halves the budget room calls."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envelope.problems import (
    Case,
    assert_fenchel_young,
    cases,
    make_case,
    oracle,
    solve_oracle,
)
from secateur.envelope import conjugate, firm, multipliers, value
from secateur.envelope.firm_operator import factors, multipliers_at

HARDNESS = st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999])


@pytest.mark.parametrize("flavour", ["plain", "ties", "zeros"])
@pytest.mark.parametrize("where", ["inside", "small", "on a breakpoint", "beyond"])
def test_firm_is_the_minimiser_that_cvxpy_finds(flavour: str, where: str) -> None:
    for seed, hardness in enumerate([0.05, 0.5, 0.9]):
        case = make_case(seed, 12, 1, False, flavour, where)
        norms = case.norms / case.norms.max()
        found = solve_oracle(
            oracle("prox", 12),
            root_weights=case.weights.sqrt().numpy(),
            costs=(case.costs / case.level).numpy(),
            square=((1 - hardness) * case.weights).sqrt().numpy(),
            line=(case.weights * norms).numpy(),
            strength=hardness,
        )
        ours = norms * firm(norms, case.level, hardness=hardness, **case.scales)
        torch.testing.assert_close(ours, torch.as_tensor(found["x"]), rtol=1e-4, atol=1e-4)


@settings(max_examples=300, deadline=None)
@given(case=cases(), hardness=HARDNESS)
def test_firm_is_stationary_for_its_strictly_convex_problem(case: Case, hardness: float) -> None:
    """0 lies in weights (x - v) + hardness (dS(x) - weights x), so this y lies in dS(x).

    The multipliers cancel against an offset of hardness / (1 - hardness), which rounds off what
    they spend by that many units; a level far below one group's cost feels it.
    """
    rounding = 1e-14 * case.costs.sum().item() / (1 - hardness)
    x = case.norms * firm(case.norms, case.level, hardness=hardness, **case.scales)
    y = case.weights * (x + (case.norms - x) / hardness)
    assert_fenchel_young(
        value(x, case.level, **case.scales),
        conjugate(y, case.level, **case.scales),
        x @ y,
        tol=1e-9 + rounding / case.level,
    )


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_hardness_zero_is_exactly_the_identity(case: Case) -> None:
    assert (firm(case.norms, case.level, hardness=0, **case.scales) == 1).all()
    near = firm(case.norms, case.level, hardness=1e-12, **case.scales)
    clearly = multipliers(case.norms, case.level, step=0.0, **case.scales) > 1e-3
    torch.testing.assert_close(near[clearly], torch.ones_like(near[clearly]), rtol=0, atol=1e-8)


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_hardness_one_is_the_largest_prefix_that_fits(case: Case) -> None:
    kept = firm(case.norms, case.level, hardness=1, **case.scales)
    saliency = (case.norms * (case.weights / case.costs).sqrt()).tolist()
    expected, spent = [0.0] * len(saliency), []
    for j in sorted(range(len(saliency)), key=lambda j: (-saliency[j], j)):
        spent.append(case.costs[j].item())
        if math.fsum(spent) > case.level * (1 + 1e-12):
            break
        expected[j] = float(saliency[j] > 0)
    assert kept.tolist() == expected


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 200), share=st.floats(0, 1))
def test_hardness_one_counts_exactly_whatever_the_ties(seed: int, m: int, share: float) -> None:
    k = max(1, round(share * m))
    norms = torch.from_numpy(np.random.default_rng(seed).integers(1, 4, m).astype(np.float32))
    kept = firm(norms, k, hardness=1.0)
    assert kept.sum().item() == k and ((kept == 0) | (kept == 1)).all()
    last = norms[kept == 1].min()
    tied = (norms == last).nonzero().flatten()
    kept_ties = (kept[tied] == 1).long()
    assert (kept_ties.diff() <= 0).all()  # of equal groups the first ones stay


def test_hardness_one_spends_a_sum_of_rounded_costs() -> None:
    assert firm(torch.ones(3), 0.3, hardness=1, costs=0.1).tolist() == [1, 1, 1]
    assert firm(torch.ones(3), 0.2999, hardness=1, costs=0.1).tolist() == [1, 1, 0]
    costs = torch.full((1_000_000,), 0.1, dtype=torch.float64)
    assert (firm(torch.ones(1_000_000), costs.sum(), hardness=1, costs=costs) == 1).all()


@settings(max_examples=100, deadline=None)
@given(case=cases(max_size=50))
def test_hardness_near_one_is_close_to_the_projection(case: Case) -> None:
    """Only groups within 0.1 % of the threshold's saliency may still differ."""
    near = firm(case.norms, case.level, hardness=0.9995, **case.scales)
    hard = firm(case.norms, case.level, hardness=1, **case.scales)
    saliency = case.norms * (case.weights / case.costs).sqrt()
    out = (hard == 0) & (saliency > 0)
    if out.any():
        first_out = saliency[out].max()
        settled = (saliency / first_out - 1).abs() > 1e-3
        torch.testing.assert_close(near[settled], hard[settled], rtol=0, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(case=cases(), hardness=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_a_larger_budget_never_shrinks_a_group_more(case: Case, hardness: float) -> None:
    levels = case.level * torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    levels = [*levels, levels.max() + 2 * case.costs.sum()]
    factor = [firm(case.norms, level, hardness=hardness, **case.scales) for level in levels]
    for less, more in itertools.pairwise(factor):
        assert (more >= less - 1e-12).all()
    assert (factor[-1][case.norms > 0] == 1).all()


@settings(max_examples=100, deadline=None)
@given(case=cases(), hardness=HARDNESS)
def test_the_fit_leaves_every_group_as_it_is(case: Case, hardness: float) -> None:
    """What already fits is untouched: firm shrinkage has no bias."""
    hard = case.norms * firm(case.norms, case.level, hardness=1, **case.scales)
    factor = firm(hard, case.level, hardness=hardness, **case.scales)
    torch.testing.assert_close(
        factor[hard > 0], torch.ones_like(factor[hard > 0]), rtol=1e-9, atol=0
    )


@settings(max_examples=100, deadline=None)
@given(case=cases(), hardness=HARDNESS)
def test_the_two_halves_give_firm_at_its_threshold(case: Case, hardness: float) -> None:
    """For any threshold: the level it spends, given to firm, must lead back to the same factors."""
    saliency = (case.norms * (case.weights / case.costs).sqrt()).numpy()
    if saliency.max() == 0:
        return
    threshold = float(np.quantile(saliency[saliency > 0], 0.6)) * 1.01
    kept = multipliers_at(saliency, threshold, hardness)
    level = float((case.costs.numpy() * kept).sum())
    if level <= 0:
        return
    ours = firm(case.norms, level, hardness=hardness, **case.scales).numpy()
    np.testing.assert_allclose(ours, factors(kept, hardness), rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(case=cases(), hardness=st.sampled_from([0.1, 0.5, 0.9]))
def test_float32_agrees_with_float64(case: Case, hardness: float) -> None:
    rounded = [x.float() for x in (case.norms, case.weights, case.costs)]
    single, double = (
        firm(norms, case.level, hardness=hardness, weights=weights, costs=costs)
        for norms, weights, costs in (rounded, [x.double() for x in rounded])
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_round_the_exact_answer_once(dtype: torch.dtype) -> None:
    norms = (torch.rand(3000) * 100).to(dtype)
    half, exact = (firm(x, 400, hardness=0.5) for x in (norms, norms.double()))
    assert half.dtype == dtype and torch.equal(half, exact.to(dtype))


def test_each_row_may_have_its_own_hardness_and_level() -> None:
    norms = torch.rand(4, 9, dtype=torch.float64)
    levels = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    hardness = torch.tensor([0.0, 0.4, 1.0, 0.8], dtype=torch.float64)
    together = firm(norms, levels, hardness=hardness)
    for row in range(4):
        alone = firm(norms[row], levels[row].item(), hardness=hardness[row].item())
        torch.testing.assert_close(together[row], alone, rtol=1e-13, atol=0)


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("m", [4, 3000])
def test_nan_and_inf_surface_in_their_whole_row(hardness: float, bad: float, m: int) -> None:
    norms = torch.rand(3, m)
    norms[1, 2] = bad
    assert firm(norms, 2, hardness=hardness)[1].isnan().all()
    assert not firm(norms, 2, hardness=hardness)[[0, 2]].isnan().any()


@pytest.mark.parametrize("hardness", [0.5, 1.0])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_factors_do_not_depend_on_the_scale_of_the_norms(hardness: float, scale: float) -> None:
    norms = torch.rand(50)
    expected = firm(norms, 12.5, hardness=hardness)
    found = firm(norms * scale, 12.5, hardness=hardness)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
def test_all_zero_and_no_groups(hardness: float) -> None:
    assert not firm(torch.zeros(4), 1, hardness=hardness).isnan().any()
    assert firm(torch.zeros(2, 0), 1, hardness=hardness).shape == (2, 0)


def test_multipliers_at_its_limits() -> None:
    saliency = np.array([0.0, 1.0, 2.0, 3.0, np.inf])
    assert multipliers_at(saliency, 2.0, 0.5).tolist() == [0, 0, 1, 1, 1]
    assert multipliers_at(saliency, 3.0, 0.0) == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    for hardness in (0.0, 0.5, 1.0):
        assert multipliers_at(saliency, 0.0, hardness).tolist() == [0, 1, 1, 1, 1]
        assert multipliers_at(saliency, 1e-320, hardness).tolist() == [0, 1, 1, 1, 1]
        assert multipliers_at(saliency, math.inf, hardness).tolist() == [0, 0, 0, 0, 1]
    assert multipliers_at(saliency, 2.0, 1.0).tolist() == [0, 0, 1, 1, 1]
    assert np.isnan(multipliers_at(saliency, math.nan, 0.5)).all()
    for threshold, hardness in ((2.0, 0.5), (2.0, 1.0), (0.0, 0.5)):
        assert np.isnan(multipliers_at(np.array([np.nan, 1.0]), threshold, hardness)[0])


@given(hardness=st.floats(0, 1), kept=st.floats(0, 1))
def test_factors_are_exact_at_their_ends_and_lie_between(hardness: float, kept: float) -> None:
    given_array = np.array([0.0, kept, 1.0])
    factor = factors(given_array, hardness)
    assert factor[2] == 1 and 0 <= factor[1] <= 1
    assert factor[0] == (hardness == 0)
    assert torch.equal(factors(torch.as_tensor(given_array), hardness), torch.as_tensor(factor))
    if hardness == 0:
        assert factor.tolist() == [1, 1, 1]
    assert np.isnan(factors(np.array([np.nan]), hardness)[0])
