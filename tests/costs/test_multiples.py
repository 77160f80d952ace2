"""Widths that are multiples: the units of a layer, and networks that come out in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from budget.cases import network, random_allowance
from secateur.budget import Allowance
from secateur.costs import Cost
from secateur.costs.multiples import least, ordered, steps
from secateur.groups import Layer

SEEDS = st.integers(0, 10_000)


def wide(channels: int = 20) -> tuple[nn.Module, torch.Tensor]:
    """A convolution whose flattened map (4 entries a channel) is read by a linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * channels, 30), nn.ReLU(), nn.Linear(30, 5),
    )  # fmt: skip
    return model, torch.randn(2, 3, 8, 8)


def test_a_unit_makes_a_multiple_whatever_reads_the_layer() -> None:
    model, x = wide()
    groups = sc.filters(model, x) + sc.neurons(model, x)
    assert [layer.name for layer in groups.layers] == ["0", "4"]
    assert steps(groups, 1) == (1, 1)
    assert steps(groups, 8) == (8, 8)


def test_a_group_of_several_channels_needs_fewer_for_a_multiple() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(16, 3, 1),
    )
    groups = sc.filters(model, torch.randn(1, 3, 5, 5))
    assert [len(layer) for layer in groups.layers] == [8]  # two channels each
    assert steps(groups, 8) == (4,)


def test_heads_are_as_wide_as_they_are_inside() -> None:
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    groups = sc.heads(model, torch.randn(1, 5, 32))
    assert len(groups) == 4
    assert steps(groups, 8) == (1,)
    assert steps(groups, 32) == (4,)


def test_what_has_no_width_is_refused_or_left_free() -> None:
    model, x = wide()
    with pytest.raises(ValueError, match=r"none of these .* groups is part of a width"):
        sc.Budget(groups=0.5, multiple_of=8).on(sc.weights(model))
    assert steps(sc.neurons(model, x) + sc.blocks(model, ignore=["0", "4"]), 8)[1:] == (1,)


@pytest.mark.parametrize("bad", [0, -8, 1.5, True, "8"])
def test_a_multiple_is_a_count(bad: object) -> None:
    with pytest.raises(ValueError, match=r"multiple_of=.*an integer of 1 or more, such as 8"):
        sc.Budget(flops=0.5, multiple_of=bad)  # pyright: ignore[reportArgumentType]


def test_the_floor_is_whole_units_or_the_whole_layer() -> None:
    assert least((20, 6), (8, 8), 1) == (8, 6)
    assert least((20, 6), (8, 8), 9) == (16, 6)
    assert least((20, 6), (8, 8), 17) == (20, 6)  # all stay where even 16 are too few
    assert least((20, 6), (1, 1), 3) == (3, 3)


def test_units_are_chosen_by_what_they_are_worth_together() -> None:
    layers = (Layer("a", "filters", 0, 4), Layer("b", "filters", 4, 9))
    worth = np.array([9.0, 1, 1, 1, 6, 5, 4, 3, 2])
    none = np.zeros(9, bool)
    units = ordered(worth, none, layers, (2, 2))
    assert [sorted(units.groups(n)) for n in range(len(units))] == [[0, 1], [4, 5], [6, 7], [2, 3]]
    assert units.number[8] == len(units)  # the fifth of b completes no pair
    one_by_one = ordered(worth, none, layers, (1, 1))
    assert [one_by_one.groups(n)[0] for n in range(4)] == [0, 4, 5, 6]


@given(SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_a_choice_in_units_fits_and_no_unit_left_out_would(
    seed: int, measures: int, step: int
) -> None:
    found = random_allowance(seed, measures=measures, share=0.7)
    units = tuple(step for _ in found.layers)
    allowance = Allowance(found.costs, found.limits, found.layers, 1, units)
    if not allowance.fits(allowance.cheapest().astype(float)):
        return
    saliency = np.random.default_rng(seed).random(found.layers[-1].stop)
    kept = allowance.choose(saliency)
    assert allowance.fits(kept.astype(float))
    for layer in allowance.layers:
        part = kept[layer.span]
        assert part.all() if len(layer) < step else part.sum() % step == 0
        out = layer.start + np.flatnonzero(~part)
        if len(out) >= step:
            more = kept.astype(float)
            more[out[np.argsort(-saliency[out], kind="stable")][:step]] = 1
            assert not allowance.fits(more), layer.name


@pytest.mark.parametrize("name", ["LeNet", "ResNet", "MobileNet", "DenseNet"])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_shrunk_networks_have_widths_in_multiples(name: str, share: float) -> None:
    _, example, groups = network(name)
    budget = sc.Budget(flops=share, multiple_of=4)
    try:
        allowance = budget.on(groups)
    except ValueError as error:
        assert "can't be reached" in str(error)
        return
    kept = allowance.choose(groups.norms().numpy())
    for layer, step in zip(groups.layers, allowance.steps, strict=True):
        count = int(kept[layer.span].sum())
        assert count % step == 0 if len(layer) >= step else count == len(layer)
    assert allowance.spent(kept.astype(float))["flops"] <= allowance.limits["flops"]
    _ = example


def test_a_trained_network_comes_out_in_multiples_and_within_its_budget() -> None:
    model, x = wide(24)
    groups = sc.filters(model, x) + sc.neurons(model, x)
    budget = sc.Budget(flops=0.5, multiple_of=8)
    optimizer = sc.Proximal(torch.optim.SGD(model.parameters(), 0.05), groups, budget, steps=20)
    for _ in range(20):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    small = sc.shrink(model, groups)
    convolution, linear = small.get_submodule("0"), small.get_submodule("4")
    assert convolution.out_channels in (8, 16)
    assert linear.out_features in (8, 16, 24)
    assert budget.reached(small, x).holds


def test_counts_of_groups_with_units_are_counted_whole() -> None:
    layers = (Layer("a", "filters", 0, 20), Layer("b", "filters", 20, 50))
    count = Cost.of([(1.0, (np.arange(50),))], 50)
    allowance = Allowance({"groups": count}, {"groups": 35.0}, layers, 1, (8, 8))
    kept = allowance.choose(np.linspace(1, 2, 50))
    assert (kept[:20].sum(), kept[20:].sum()) == (8, 24)
    assert (allowance.most()[:20].sum(), allowance.most()[20:].sum()) == (16, 24)
