"""Value and conjugate: CVXPY, special cases that have a closed form, and the gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envelope.problems import Case, cases, make_case, oracle, solve_oracle
from secateur.envelope import conjugate, multipliers, value


@pytest.mark.parametrize("flavour", ["plain", "ties", "zeros"])
@pytest.mark.parametrize("where", ["inside", "small", "on a breakpoint", "beyond"])
def test_value_is_the_minimum_that_cvxpy_finds(flavour: str, where: str) -> None:
    for seed in range(3):
        case = make_case(seed, 12, 2, False, flavour, where)
        scale = value(case.norms, case.level, **case.scales)
        solve_oracle(
            oracle("value", 12),
            root_weights=(case.weights.sqrt() * case.norms / scale.sqrt()).numpy(),
            costs=(case.costs / case.level).numpy(),
        )
        # the problem was divided by our value, so its minimum must be 1
        assert oracle("value", 12).value == pytest.approx(1, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(case=cases(max_size=8))
def test_conjugate_is_the_best_vertex(case: Case) -> None:
    """A linear programme over a box and one constraint: some order of filling is the best."""
    gains = (case.norms**2 / case.weights).numpy()
    costs = case.costs.numpy()
    random = np.random.default_rng(0)
    best = 0.0
    greedy = np.argsort(-gains / costs)
    for order in [greedy, *(random.permutation(len(gains)) for _ in range(50))]:
        left, total = case.level, 0.0
        for j in order:
            share = min(1, left / costs[j])
            left -= share * costs[j]
            total += share * gains[j]
        best = max(best, total / 2)
    found = conjugate(case.norms, case.level, **case.scales).item()
    assert found == pytest.approx(best, rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(case=cases(), other=cases(max_size=200))
def test_fenchel_inequality_holds_everywhere_and_is_tight_at_the_gradient(case, other) -> None:
    norms = case.norms.clone().requires_grad_()
    envelope = value(norms, case.level, **case.scales)
    (gradient,) = torch.autograd.grad(envelope, norms)
    tight = conjugate(gradient, case.level, **case.scales)
    assert (envelope + tight - case.norms @ gradient).abs() <= 1e-9 * (envelope + tight)
    y = other.norms[: len(norms)]
    x = case.norms[: len(y)]
    scales = {name: scale[: len(y)] for name, scale in case.scales.items()}
    bound = value(x, case.level, **scales) + conjugate(y, case.level, **scales)
    assert x @ y <= bound * (1 + 1e-12)


def _k_support_by_definition(norms: np.ndarray, k: int) -> float:
    """Half the squared k-support norm, as Argyriou, Foygel and Srebro (2012) define it."""
    a = np.concatenate([[np.inf], np.sort(norms)[::-1]])  # a[i]: the i-th largest
    for r in range(k):
        tail = a[k - r :].sum() / (r + 1)
        if a[k - r - 1] > tail >= a[k - r]:
            return (np.square(a[1 : k - r]).sum() + (r + 1) * tail**2) / 2
    raise AssertionError("the definition has exactly one such r")


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 60), fraction=st.floats(0, 1))
def test_singletons_give_the_k_support_norm(seed: int, m: int, fraction: float) -> None:
    norms = np.random.default_rng(seed).exponential(size=m)
    k = max(1, round(fraction * m))
    found = value(torch.as_tensor(norms), k).item()
    assert found == pytest.approx(_k_support_by_definition(norms, k), rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(case=cases())
def test_level_one_is_the_squared_group_lasso_and_a_full_level_the_ridge(case: Case) -> None:
    a, d = case.norms, case.weights
    torch.testing.assert_close(value(a, 1), a.sum() ** 2 / 2, rtol=1e-12, atol=0)
    full = case.costs[a > 0].sum().item() * (1 + 1e-15) + 1e-30
    ridge = (d * a**2).sum() / 2
    torch.testing.assert_close(value(a, full, **case.scales), ridge, rtol=1e-12, atol=0)
    torch.testing.assert_close(conjugate(a, full * 1e9, weights=d), (a**2 / d).sum() / 2)


@pytest.mark.parametrize("where", ["inside", "on a breakpoint", "beyond"])
def test_gradient(where: str) -> None:
    case = make_case(3, 9, 1, False, "plain", where)
    norms = torch.stack([case.norms, 3 * case.norms.flip(0)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: value(a, case.level, **case.scales), norms)
    kept = multipliers(norms, case.level, step=0.0, **case.scales)
    (gradient,) = torch.autograd.grad(value(norms, case.level, **case.scales).sum(), norms)
    torch.testing.assert_close(gradient, case.weights * norms.detach() / kept)


def test_gradient_is_zero_on_zero_groups_and_has_none_of_its_own() -> None:
    norms = torch.tensor([2.0, 0.0, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(value(norms, 1), norms, create_graph=True)
    assert gradient.tolist() == [3.0, 0.0, 3.0]
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


def test_gradient_of_a_batch_is_that_of_its_rows_also_by_torch_func() -> None:
    norms = torch.rand(4, 6, dtype=torch.float64, requires_grad=True)
    (rows,) = torch.autograd.grad(value(norms, 2).sum(), norms)
    for row, gradient in zip(norms.detach(), rows, strict=True):
        torch.testing.assert_close(torch.func.grad(lambda a: value(a, 2))(row), gradient)


def test_rows_are_independent_and_levels_may_differ() -> None:
    norms = torch.rand(2, 3, 7, dtype=torch.float64)
    levels = torch.tensor([[1.0, 2.0, 3.5], [0.5, 7.0, 9.0]], dtype=torch.float64)
    for function in (value, conjugate):
        together = function(norms, levels)
        assert together.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                alone = function(norms[i, j], levels[i, j].item())
                torch.testing.assert_close(together[i, j], alone, rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("function", [value, conjugate])
def test_both_are_homogeneous_of_degree_two(function, scale: float) -> None:
    norms = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    found = function(scale * norms, 2) / scale**2
    torch.testing.assert_close(found, function(norms, 2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("function", [value, conjugate])
def test_nan_and_inf_surface_in_their_row_only(function, bad: float) -> None:
    norms = torch.tensor([[3.0, 1.0, 0.0], [3.0, bad, 0.0]])
    assert function(norms, 2).isnan().tolist() == [False, True]


@pytest.mark.parametrize("function", [value, conjugate])
def test_corners_of_shape(function) -> None:
    assert function(torch.zeros(0), 1).item() == 0
    assert function(torch.zeros(3, 0), 1).tolist() == [0, 0, 0]
    assert function(torch.zeros(0, 3), 1).shape == (0,)
    assert function(torch.zeros(5), 2).item() == 0
