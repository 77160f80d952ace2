"""The proximal operator: CVXPY, Fenchel-Young and the optimality of the multipliers."""

from __future__ import annotations

import math

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
from secateur.envelope import conjugate, multipliers, prox, value

STEPS = st.sampled_from([1e-4, 1e-2, 1.0, 1e2])


@pytest.mark.parametrize("flavour", ["plain", "ties", "zeros"])
@pytest.mark.parametrize("where", ["inside", "small", "on a breakpoint", "beyond"])
def test_prox_is_the_minimiser_that_cvxpy_finds(flavour: str, where: str) -> None:
    for seed, step in enumerate([0.01, 0.3, 10.0]):
        case = make_case(seed, 12, 2, False, flavour, where)
        norms = case.norms / case.norms.max()
        found = solve_oracle(
            oracle("prox", 12),
            root_weights=case.weights.sqrt().numpy(),
            costs=(case.costs / case.level).numpy(),
            square=torch.ones(12).numpy(),
            line=norms.numpy(),
            strength=step,
        )
        ours = norms * prox(norms, case.level, step=step, **case.scales)
        torch.testing.assert_close(ours, torch.as_tensor(found["x"]), rtol=1e-5, atol=3e-5)


@settings(max_examples=300, deadline=None)
@given(case=cases(), step=STEPS)
def test_moreau_the_residual_is_a_subgradient(case: Case, step: float) -> None:
    rounding = 1e-14 * (case.costs * (1 + step * case.weights)).sum().item()  # of what is spent
    kept = multipliers(case.norms, case.level, step=step, **case.scales)
    factors = prox(case.norms, case.level, step=step, **case.scales)
    x = case.norms * factors
    y = case.norms * torch.where(case.norms > 0, case.weights / (kept + step * case.weights), 0)
    torch.testing.assert_close(x + step * y, case.norms, rtol=1e-13, atol=0)
    assert_fenchel_young(
        value(x, case.level, **case.scales),
        conjugate(y, case.level, **case.scales),
        x @ y,
        tol=1e-9 + rounding / case.level,
    )


@settings(max_examples=150, deadline=None)
@given(case=cases(), step=STEPS)
def test_multipliers_satisfy_the_optimality_conditions(case: Case, step: float) -> None:
    """Per unit of cost, whatever is partly kept gains the same; the rest more or less than that."""
    kept = multipliers(case.norms, case.level, step=step, **case.scales)
    alive = case.norms > 0
    assert ((kept >= 0) & (kept <= 1)).all() and (kept[~alive] == 0).all()
    available = case.costs[alive].sum().item()
    rounding = 1e-14 * (case.costs * (1 + step * case.weights)).sum().item()
    spent = (case.costs * kept).sum().item()
    assert spent == pytest.approx(min(available, case.level), rel=1e-13, abs=rounding)
    if available > case.level:
        gain = case.norms * (case.weights / case.costs).sqrt() / (kept + step * case.weights)
        partly = alive & (kept > 0) & (kept < 1)
        high = gain[alive & (kept > 0)].min()
        assert (gain[alive & (kept < 1)] <= high * (1 + 1e-9)).all()
        if partly.any():
            assert gain[partly].max() <= gain[partly].min() * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(case=cases())
def test_step_zero_is_exactly_the_identity(case: Case) -> None:
    assert (prox(case.norms, case.level, step=0, **case.scales) == 1).all()


@settings(max_examples=50, deadline=None)
@given(case=cases(), step=STEPS)
def test_a_level_that_keeps_all_shrinks_each_group_by_its_own_weight(case, step: float) -> None:
    level = 2 * case.costs.sum().item()
    factors = prox(case.norms, level, step=step, **case.scales)
    ridge = torch.where(case.norms > 0, 1 / (1 + step * case.weights), 0)
    torch.testing.assert_close(factors, ridge, rtol=1e-14, atol=0)


@settings(max_examples=50, deadline=None)
@given(case=cases(max_size=40), step=STEPS, seed=st.integers(0, 99))
def test_prox_is_firmly_nonexpansive(case: Case, step: float, seed: int) -> None:
    torch.manual_seed(seed)
    other = case.norms * torch.rand(len(case.norms), dtype=torch.float64)
    points = torch.stack([case.norms, other])
    images = points * prox(points, case.level, step=step, **case.scales)
    moved, image = points[0] - points[1], images[0] - images[1]
    assert image @ image <= image @ moved + 1e-9 * (points[0] @ points[0])


def test_a_metric_is_a_change_of_variables() -> None:
    """As the docstring says: optimality of 1/2 sum h (x - v)^2 + step S(x) in its own terms."""
    case = make_case(5, 30, 2, False, "plain", "inside")
    h = torch.logspace(-1, 1, 30, dtype=torch.float64)
    scales = {"weights": case.weights / h, "costs": case.costs}
    x = case.norms * prox(case.norms * h.sqrt(), case.level, step=0.2, **scales)
    y = h * (case.norms - x) / 0.2
    assert_fenchel_young(
        value(x, case.level, **case.scales), conjugate(y, case.level, **case.scales), x @ y, 1e-9
    )


@settings(max_examples=60, deadline=None)
@given(case=cases(), step=STEPS)
def test_float32_agrees_with_float64(case: Case, step: float) -> None:
    rounded = [x.float() for x in (case.norms, case.weights, case.costs)]
    single, double = (
        prox(norms, case.level, step=step, weights=weights, costs=costs)
        for norms, weights, costs in (rounded, [x.double() for x in rounded])
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [multipliers, prox])
def test_half_precisions_round_the_exact_answer_once(function, dtype: torch.dtype) -> None:
    norms = (torch.rand(3000) * 100).to(dtype)
    half, exact = (function(x, 40.0, step=0.01) for x in (norms, norms.double()))
    assert half.dtype == dtype
    assert torch.equal(half, exact.to(dtype))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("m", [10, 5000])
def test_factors_do_not_depend_on_the_scale_of_the_norms(scale: float, m: int) -> None:
    torch.manual_seed(0)
    norms = torch.randn(m).abs()
    expected = prox(norms, 3.5, step=0.1)
    torch.testing.assert_close(prox(norms * scale, 3.5, step=0.1), expected, rtol=1e-5, atol=1e-6)


def test_norms_of_sixty_orders_of_magnitude_in_one_row() -> None:
    norms = torch.logspace(-30, 30, 61, dtype=torch.float64)
    kept = multipliers(norms, 30.5, step=1e-3)
    assert kept.sum().item() == pytest.approx(30.5, rel=1e-13)
    assert (kept.diff() >= 0).all() and (kept[-30:] == 1).all()


def test_tied_groups_share_alike() -> None:
    for m in (7, 3000):
        kept = multipliers(torch.full((m,), 2.5), m / 4, step=0.3)
        torch.testing.assert_close(kept, torch.full((m,), 0.25))


def test_all_zero_norms_stay_zero_and_give_no_nan() -> None:
    assert prox(torch.zeros(2, 4), 1, step=0.5).tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("m", [4, 3000])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_nan_and_inf_surface_in_their_whole_row(m: int, bad: float, step: float) -> None:
    norms = torch.rand(3, m)
    norms[1, 2] = bad
    for function in (multipliers, prox):
        assert function(norms, 2, step=step).isnan().all(-1).tolist() == [False, True, False]
        assert not function(norms, 2, step=step)[[0, 2]].isnan().any()


def test_memory_layout_does_not_matter() -> None:
    norms = torch.rand(6, 8).t()[:, ::2]
    assert not norms.is_contiguous()
    weights = torch.rand(3).expand(8, 3)
    assert torch.equal(
        prox(norms, 1.5, step=0.1, weights=weights),
        prox(norms.contiguous(), 1.5, step=0.1, weights=weights.contiguous()),
    )


def test_numbers_and_tensors_mean_the_same() -> None:
    norms = torch.rand(2, 5, dtype=torch.float64)
    plain = prox(norms, 2, step=0.3, weights=2.0, costs=0.5)
    full = torch.ones(2, 5, dtype=torch.float64)
    rows = torch.tensor([2.0, 2.0]), torch.tensor([0.3, 0.3], dtype=torch.float64)
    spelled = prox(norms, rows[0], step=rows[1], weights=2 * full, costs=0.5 * full[0])
    torch.testing.assert_close(plain, spelled, rtol=1e-14, atol=0)


def test_no_groups_no_factors() -> None:
    assert prox(torch.zeros(2, 0), 1, step=0.1).shape == (2, 0)
    assert multipliers(torch.zeros(0), 1, step=0.1).shape == (0,)
