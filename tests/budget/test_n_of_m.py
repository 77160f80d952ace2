"""Every block meets its own n; what the user asks must agree; other kinds share the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from networks import images
from secateur.budget import NMAllowance
from secateur.envelope.firm_operator import factors


def blockwise(n: int = 2, m: int = 4, inputs: int = 16, outputs: int = 3) -> NMAllowance:
    groups = sc.n_of_m(nn.Linear(inputs, outputs), n, m)
    return sc.Budget(groups=n / m).on(groups)  # pyright: ignore[reportReturnType]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([(1, 2), (2, 4), (3, 8), (1, 16)]),
    st.floats(0.01, 0.99),
)
def test_each_block_is_firm_shrinkage_on_its_own(seed, level, hardness):
    n, m = level
    allowance = blockwise(n, m)
    worth = np.random.default_rng(seed).lognormal(size=48)
    u, _ = allowance.relax(worth, hardness)
    expected = sc.envelope.firm(torch.from_numpy(worth).reshape(-1, m), n, hardness=hardness)
    np.testing.assert_allclose(
        factors(u, hardness), expected.reshape(-1).numpy(), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(u.reshape(-1, m).sum(1), n, rtol=1e-9)


def test_blocks_with_too_few_non_zeros_are_left_alone():
    worth = np.array([3.0, 0, 0, 0] * 2 + [0.0] * 4 + [1.0, 1, 1, 1] * 9)
    u, _ = blockwise().relax(worth, 0.5)
    assert u[:12].tolist() == [1, 0, 0, 0] * 2 + [0] * 4
    np.testing.assert_allclose(u[12:], 0.5)  # ties share the level


@pytest.mark.parametrize("level", [(1, 2), (2, 4), (5, 8)])
def test_the_choice_is_the_n_strongest_of_every_block_with_ties_by_index(level):
    n, m = level
    worth = np.random.default_rng(0).integers(0, 3, 48).astype(float)  # many ties and zeros
    kept = blockwise(n, m).choose(worth).reshape(-1, m)
    assert (kept.sum(1) == n).all()
    for row, mine in zip(worth.reshape(-1, m), kept, strict=True):
        best = sorted(range(m), key=lambda i: (-row[i], i))[:n]
        assert np.flatnonzero(mine).tolist() == sorted(best)


def test_the_cheapest_network_keeps_n_of_every_block():
    assert (blockwise(3, 8).cheapest().reshape(-1, 8).sum(1) == 3).all()


@pytest.mark.parametrize("amount", [0.4, 0.6, 23, 25, 1.0])
def test_a_budget_that_disagrees_with_the_kind_is_refused(amount):
    groups = sc.n_of_m(nn.Linear(16, 3), 2, 4)
    with pytest.raises(ValueError, match=r"keep exactly 24 of these 48 groups, .*groups=0\.5"):
        sc.Budget(groups=amount).on(groups)
    assert sc.Budget(groups=24).on(groups).limits == {"groups": 24}


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN or inf"):
        blockwise().relax(np.full(48, np.nan), 0.5)
    with pytest.raises(ValueError, match="NaN or inf"):
        blockwise().choose(np.full(48, np.inf))


class Mixed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 10)
        )


@pytest.mark.parametrize("order", [0, 1])
def test_with_filters_the_budget_in_flops_is_theirs(order):
    model, example = Mixed(), images(2, 1, 8, 8)
    kinds = [sc.filters(model, example), sc.n_of_m(model, 1, 4, ignore=nn.Conv2d)]
    groups = kinds[order] + kinds[1 - order]
    alone = sc.Budget(flops=0.5).on(kinds[0])
    allowance = sc.Budget(flops=0.5).on(groups)
    assert isinstance(allowance, NMAllowance)
    worth = np.random.default_rng(1).lognormal(size=len(groups))
    blocks = next(layer for layer in groups.layers if layer.blocks)
    inside = np.zeros(len(groups), bool)
    inside[blocks.span] = True
    for mine, theirs in (
        (allowance.choose(worth), alone.choose(worth[~inside])),
        (allowance.relax(worth, 0.7)[0], alone.relax(worth[~inside], 0.7)[0]),
    ):
        np.testing.assert_allclose(mine[~inside], theirs, atol=1e-9)
        np.testing.assert_allclose(mine[inside].reshape(-1, 4).sum(1), 1)


def test_with_another_count_the_rest_of_the_budget_is_for_the_others():
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    groups = sc.n_of_m(model, 2, 4, ignore="1") + sc.weights(model, ignore="0")
    allowance = sc.Budget(groups=64 + 10).on(groups)
    worth = np.random.default_rng(2).lognormal(size=len(groups))
    assert allowance.choose(worth).sum() == 74
    assert allowance.choose(worth)[:128].sum() == 64
    u, _ = allowance.relax(worth, 0.5)
    assert u.sum() == pytest.approx(74, rel=1e-9)
    assert allowance.spent(u)["groups"] == pytest.approx(74, rel=1e-9)
    with pytest.raises(ValueError, match=r"keep exactly 64 of these 160 .* pass groups=65 or more"):
        sc.Budget(groups=64).on(groups)


def test_the_convex_penalty_is_refused_with_blocks():
    model = nn.Linear(8, 2)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="n of every m needs the firm penalty"):
        sc.Proximal(sgd, sc.n_of_m(model), sc.Budget(groups=0.5), penalty="envelope", lam=0.1)
