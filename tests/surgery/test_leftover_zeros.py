"""Zeros that stay in place: what they free together with other kinds, and what is told of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from networks import images
from secateur.surgery.equivalence import difference
from secateur.surgery.leftover_zeros import staying, tied


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 5),
    )  # fmt: skip


EXAMPLE = images(2, 3, 6, 6)


def kinds(model: nn.Module, order: int) -> tuple[sc.Groups, slice, slice]:
    """Filters and single weights of the linear layer, with their ranges in the sum."""
    found = [sc.filters(model, EXAMPLE), sc.weights(model, ignore=nn.Conv2d)]
    first, second = found[order], found[1 - order]
    parts = slice(0, len(first)), slice(len(first), None)
    return first + second, parts[order], parts[1 - order]


@pytest.mark.parametrize("order", [0, 1])
def test_filters_go_and_weights_stay_whichever_comes_first(order):
    model = network()
    groups, filters, weights = kinds(model, order)
    factors = torch.ones(len(groups)).double()
    factors[filters][[1, 4 + 2]] = 0  # the second filter of one layer, the third of the other
    factors[weights][torch.arange(96 * 5) % 2 == 0] = 0  # 48 of each row's 96, 8 of its removed 16
    groups.scale_(factors)
    with pytest.warns(UserWarning, match="^200 dead groups of 5 stay in the network: weights"):
        small = sc.shrink(model, groups)
    assert [small[i].weight.shape[0] for i in (0, 2)] == [3, 5]
    assert small[5].in_features == 80 and int((small[5].weight == 0).sum()) == 200
    assert difference(model, small, EXAMPLE) <= 1e-6
    assert small.secateur.groups == {"filters": (8, 10), "weights": (240, 480)}


@pytest.mark.parametrize("order", [0, 1])
def test_the_cost_of_a_sum_is_that_of_what_can_be_removed(order):
    model = network()
    groups, filters, weights = kinds(model, order)
    assert tied(groups)[filters].all() and not tied(groups)[weights].any()
    alone = sc.filters(model, EXAMPLE)
    assert torch.equal(groups.costs[filters], alone.costs)
    assert (groups.costs[weights] == 1).all()
    for measure in ("flops", "params", "bytes"):
        budget = sc.Budget(**{measure: 0.5})
        assert budget.on(groups).limits == budget.on(alone).limits


def test_staying_counts_groups_that_have_an_element_left():
    model = nn.Linear(6, 2)
    groups = sc.custom(model, {"weight": torch.arange(6) // 2})
    dead = np.array([True, True, False])
    for kept, count in (((0, 1, 2, 3, 4, 5), 2), ((1, 4, 5), 1), ((4, 5), 0)):
        found = staying(groups, dead, {"weight": {1: kept}})
        assert [n for _, n, _ in found] == [count] * (count > 0)


def test_channels_without_a_reader_go_next_to_dead_filters():
    """Filters own one layer, shapes the next: each frees other channels between them."""
    model = network()
    groups = sc.filters(model, EXAMPLE, ignore="2") + sc.shapes(model, EXAMPLE, ignore="0")
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0, 0  # a dead filter
        model[2].weight[:, 1] = 0  # a channel that nobody reads
        model[2].weight[:, 0, 0, 0] = 0  # a position that leaves with the dead filter
        model[2].weight[:, 3, 0, 0] = 0  # a position that stays
    with pytest.warns(UserWarning, match="^1 dead groups of 2 stay"):
        small = sc.shrink(model, groups)
    assert small[0].out_channels == small[2].in_channels == 2
    assert difference(model, small, EXAMPLE) <= 1e-6


def test_the_last_channel_stays_even_if_nobody_reads_it():
    model = network()
    groups = sc.filters(model, EXAMPLE, ignore="2") + sc.shapes(model, EXAMPLE, ignore="0")
    with torch.no_grad():
        model[0].weight[:2], model[0].bias[:2] = 0, 0
        model[2].weight[:, 2:] = 0  # what the living filters make is read by nobody
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = sc.shrink(model, groups)
    assert small[0].out_channels == small[2].in_channels == 1
    assert difference(model, small, EXAMPLE) <= 1e-6
