"""Indices of experts find the new places, whatever left before."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from secateur.surgery.forward_wrappers import AT_FIRST, PAST, combined, new_places, reroute


class Echo(nn.Module):
    """Returns what it was given."""

    def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return x, index, weight


INDEX = torch.tensor([[0, 3], [1, 2], [3, 0]])
WEIGHT = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


@pytest.mark.parametrize(("gone", "elsewhere"), [(AT_FIRST, 0), (PAST, 2)])
def test_lost_experts_get_no_weight(gone, elsewhere):
    module = Echo()
    reroute(module, new_places([False, True, False, True], gone))
    x = torch.ones(3, 4)
    kept, index, weight = module(x, INDEX, weight=WEIGHT)
    assert kept is x
    assert index.tolist() == [[elsewhere, 1], [0, elsewhere], [1, elsewhere]]
    assert weight.tolist() == [[0, 2], [3, 0], [5, 0]]


@pytest.mark.parametrize("gone", itertools.product((AT_FIRST, PAST), repeat=2))
def test_two_removals_are_one(gone):
    first = new_places([True, False, True, True], gone[0])
    second = new_places([False, True, True], gone[1])
    twice, once = Echo(), Echo()
    reroute(twice, first)
    reroute(twice, second)
    reroute(once, combined(first, second))
    alive = [False, False, True, True]
    assert [place >= 0 for place in combined(first, second)] == alive
    for a, b in zip(twice(WEIGHT, INDEX, WEIGHT), once(WEIGHT, INDEX, WEIGHT), strict=True):
        assert torch.equal(a, b)
