"""What can be asked of a model, and what is refused before training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from budget.cases import NETWORKS, network
from cuts import cut_out
from secateur.budget import reachable
from secateur.measurement import count_bytes, count_flops, count_params

COUNTERS = {
    "flops": count_flops,
    "params": lambda model, _: count_params(model),
    "bytes": lambda model, _: count_bytes(model),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_smallest_network_is_what_the_counters_say(name: str) -> None:
    model, example, groups = network(name)
    found = reachable(groups)
    for measure, counter in COUNTERS.items():
        kept = sc.Budget(**{measure: found[measure].smallest}).on(groups).cheapest()
        small = cut_out(model, groups, ~kept)[0].model
        assert counter(small, example) == found[measure].smallest
        assert counter(model, example) == found[measure].full


@pytest.mark.parametrize("measure", ["groups", "flops", "params", "bytes"])
def test_one_less_than_the_smallest_is_refused(measure: str) -> None:
    _, _, groups = network("LeNet")
    found = reachable(groups, at_least=2, multiple_of=4)[measure]
    options = {"at_least": 2, "multiple_of": 4}
    allowance = sc.Budget(**{measure: found.smallest}, **options).on(groups)
    assert allowance.choose(np.ones(len(groups))).sum() == 12
    with pytest.raises(ValueError, match=r"at_least=2, multiple_of=4 in each of 3 layers"):
        sc.Budget(**{measure: found.smallest - 1}, **options).on(groups)


def test_multiples_also_limit_the_largest() -> None:
    model = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2))
    groups = sc.neurons(model, torch.ones(1, 4))
    found = reachable(groups, multiple_of=8)
    assert (found["groups"].smallest, found["groups"].largest) == (8, 16)
    assert found["flops"].largest == found["flops"].full * 16 // 20


def test_blocks_are_reachable_at_one_count_only() -> None:
    groups = sc.n_of_m(nn.Linear(8, 4))
    line = reachable(groups)["groups"]
    assert (line.smallest, line.largest, line.full) == (16, 16, 32)
    assert str(reachable(groups)).splitlines()[1].split() == [
        *("groups", "16", "(50.00%)", "16", "(50.00%)", "32")
    ]


def test_amounts_that_hold_one_by_one_but_not_together_are_explained() -> None:
    """A layer whose cheapest group by one measure is its dearest by the other."""
    from secateur.budget import Allowance
    from secateur.costs import Cost
    from secateur.groups import Layer

    first = Cost.of([(1.0, (np.array([0]),)), (9.0, (np.array([1]),))], 2)
    second = Cost.of([(9.0, (np.array([0]),)), (1.0, (np.array([1]),))], 2)
    limits = {"a": 1.0, "b": 1.0}
    layer = Layer("x", "neurons", 0, 2)
    allowance = Allowance({"a": first, "b": second}, limits, (layer,), 1)
    assert not allowance.fits(allowance.cheapest().astype(float))
