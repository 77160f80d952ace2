"""Budgets with one level a layer: every layer keeps the same share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from budget.cases import NETWORKS, network, random_allowance
from secateur import envelope
from secateur.budget import Allowance, NMAllowance, UniformAllowance
from secateur.costs import Cost
from secateur.groups import Layer

SEEDS = st.integers(0, 10_000)


def even(allowance: Allowance) -> UniformAllowance:
    return UniformAllowance(
        allowance.costs, allowance.limits, allowance.layers, allowance.at_least, allowance.steps
    )


def count(sizes: tuple[int, ...], kept: float) -> UniformAllowance:
    """A budget on the number of groups."""
    total = sum(sizes)
    stops = tuple(itertools.accumulate(sizes))
    layers = tuple(
        Layer(str(i), "neurons", stop - size, stop)
        for i, (size, stop) in enumerate(zip(sizes, stops, strict=True))
    )
    cost = Cost.of([(1.0, (np.arange(total),))], total)
    return UniformAllowance({"groups": cost}, {"groups": kept}, layers, 1)


def mlp(*widths: int) -> nn.Sequential:
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(layers[0], *(m for x in layers[1:] for m in (nn.ReLU(), x)))


def test_every_layer_keeps_the_same_share_however_strong_it_is() -> None:
    allowance = count((8, 40), 12)
    saliency = np.concatenate([np.full(8, 100.0), np.linspace(1, 2, 40)])
    kept = allowance.choose(saliency)
    assert (kept[:8].sum(), kept[8:].sum()) == (2, 10)
    assert kept[-10:].all()  # the strongest of the layer
    u, share = allowance.relax(saliency, 0.5)
    assert share == pytest.approx(0.25)
    np.testing.assert_allclose((u[:8].sum(), u[8:].sum()), (2, 10), rtol=1e-9)


def test_a_layer_s_multipliers_are_those_of_the_envelope_room_at_its_level() -> None:
    rng = np.random.default_rng(0)
    allowance = count((30, 50), 24)
    saliency = np.concatenate([rng.random(30) + 1, 5 * rng.random(50) + 2])
    hardness = 0.6
    u, share = allowance.relax(saliency, hardness)
    pressed = np.where(allowance.floor(saliency), 1e9, saliency)
    for layer in allowance.layers:
        part = layer.span
        expected = envelope.multipliers(
            torch.from_numpy(pressed[part]), share * len(layer), step=hardness / (1 - hardness)
        ).numpy()
        np.testing.assert_allclose(u[part], expected, atol=1e-9)


@given(SEEDS, st.integers(1, 3), st.floats(0.01, 0.99))
def test_multipliers_spend_exactly_what_is_allowed(seed: int, measures: int, r: float) -> None:
    allowance = even(random_allowance(seed, measures=measures))
    saliency = np.random.default_rng(seed).random(allowance.layers[-1].stop) + 0.01
    u, share = allowance.relax(saliency, r)
    if share < 1:
        assert abs(allowance.excess(u)) <= 1e-9 or allowance.fits(u)
    again, _ = allowance.relax(saliency, r, start=share)
    np.testing.assert_allclose(again, u, atol=1e-7)


@given(SEEDS, st.integers(1, 3))
def test_a_choice_fits_and_nothing_left_out_would(seed: int, measures: int) -> None:
    allowance = even(random_allowance(seed, measures=measures))
    kept = allowance.choose(np.random.default_rng(seed).random(allowance.layers[-1].stop))
    assert allowance.fits(kept.astype(float))
    for group in np.flatnonzero(~kept):
        more = kept.astype(float)
        more[group] = 1
        assert not allowance.fits(more)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_on_real_networks_the_shares_of_layers_are_even(name: str) -> None:
    _, _, groups = network(name)
    allowance = sc.Budget(params=0.6, per_layer=True).on(groups)
    kept = allowance.choose(np.random.default_rng(0).random(len(groups)))
    shares = [kept[x.span].mean() - 1 / len(x) for x in groups.layers if len(x) >= 8]
    assert max(shares, default=0) - min(shares, default=0) <= 0.25


def test_the_convex_penalty_presses_each_layer_to_its_own_level() -> None:
    torch.manual_seed(0)
    model = mlp(6, 16, 32, 2)
    x = torch.randn(8, 6)
    groups = sc.neurons(model, x)
    budget = sc.Budget(groups=0.25, per_layer=True)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, groups, budget, penalty="envelope", lam=0.01)
    before, norms = [p.detach().clone() for p in model.parameters()], groups.norms()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    expected = torch.cat(
        [
            envelope.prox(norms[:16], 4.0, step=0.001, weights=1.0),
            envelope.prox(norms[16:], 8.0, step=0.001, weights=1.0),
        ]
    )
    torch.testing.assert_close(groups.norms(), norms * expected)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_n_of_m_goes_together_with_even_layers() -> None:
    torch.manual_seed(0)
    model = mlp(8, 16, 16, 2)
    x = torch.randn(2, 8)
    groups = sc.neurons(model, x, ignore=["0"]) + sc.n_of_m(model, ignore=["2", "4"])
    blocks = sum(len(layer) for layer in groups.layers if layer.blocks)
    budget = sc.Budget(groups=blocks // 2 + 8, per_layer=True)
    allowance = budget.on(groups)
    assert isinstance(allowance, NMAllowance)
    assert isinstance(allowance.rest, UniformAllowance)
    assert allowance.choose(groups.norms().numpy()).sum() == blocks // 2 + 8


def test_per_layer_is_a_yes_or_no() -> None:
    with pytest.raises(ValueError, match=r"per_layer=0.5.*True or False"):
        sc.Budget(groups=0.25, per_layer=0.5)  # pyright: ignore[reportArgumentType]
