"""Costs against counts of what removal leaves, and against finite differences."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc
from budget.cases import NETWORKS, network
from secateur.costs import cost
from secateur.costs.measures import full_costs
from secateur.groups import Groups, Layer
from secateur.groups.coupling import Coupling, Operation, Slot
from secateur.surgery.removal import remove

SHARES = (0.2, 0.5, 0.9)
LINEAR = ("groups", "flops", "params", "bytes")  # memory has kinks: test_memory.py


def counted(model: torch.nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Counted here, by other means than the package's own."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        model(example)
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "flops": counter.get_total_flops(),
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cost_is_what_removal_leaves(name: str) -> None:
    model, example, groups = network(name)
    rng = np.random.default_rng(0)
    for share in SHARES:
        kept = rng.random(len(groups)) < share
        for layer in groups.layers:
            kept[rng.integers(layer.start, layer.stop)] = True
        zeroed = copy.deepcopy(model)
        theirs = groups.on(zeroed).scale_(torch.from_numpy(kept.astype(np.float32)))
        removal = remove(zeroed, theirs, ~kept)
        assert not removal.refused
        for measure, found in counted(removal.model, example).items():
            assert cost(groups, measure)(kept.astype(float)) == found, (share, measure)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_is_what_the_network_costs(name: str) -> None:
    model, example, groups = network(name)
    found = counted(model, example)
    assert {measure: full_costs(groups, measure) for measure in found} == found
    assert full_costs(groups, "groups") == len(groups)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_the_slope(name: str) -> None:
    _, _, groups = network(name)
    rng = np.random.default_rng(1)
    u = rng.random(len(groups))
    for measure in LINEAR:
        c = cost(groups, measure)
        slope = c.gradient(u)
        for group in rng.choice(len(groups), 10):
            up, down = u.copy(), u.copy()
            up[group], down[group] = u[group] + 0.5, u[group] - 0.5
            # central differences are exact for a polynomial of degree 2 in one multiplier
            assert slope[group] == pytest.approx(c(up) - c(down), rel=1e-9), measure


def test_a_cost_grows_with_every_multiplier() -> None:
    _, _, groups = network("ResNet")
    u = np.random.default_rng(2).random(len(groups))
    for measure in LINEAR:
        assert (cost(groups, measure).gradient(u) > 0).all()


def test_axes_in_no_group_and_repeated_groups_count_whole() -> None:
    c = sc.costs.Cost.of([(3.0, (np.array([0, 0, 1, -1]), np.array([2, -1])))], 3)
    assert c(np.array([1.0, 0, 0])) == 3 * (2 + 1) * 1
    assert c(np.array([0.5, 1, 1])) == 3 * (1 + 1 + 1) * 2
    np.testing.assert_array_equal(c.gradient(np.array([0.0, 0, 1])), [3 * 2 * 2, 3 * 2, 3])


def test_unknown_measures_and_untraced_groups_are_refused() -> None:
    model = torch.nn.Linear(3, 2)
    groups = sc.custom(model, {"weight": torch.tensor([[0], [1]])})
    with pytest.raises(ValueError, match=r"unknown measure 'watts'; known: groups, flops, params"):
        cost(groups, "watts")
    with pytest.raises(ValueError, match=r"flops needs groups that were traced.*groups= only"):
        cost(groups, "flops")
    assert cost(groups, "groups")(np.array([1.0, 0.0])) == 1


def test_what_several_groups_share_goes_with_the_last_of_them():
    """A norm that two branches read, inside one of three groups that hold it alone."""
    slot = Slot(("norm",), (5,), 4, True, (None,), within=((0, 1), (2,)))
    coupling = Coupling((slot,), (Operation("mm", 6, (), within=((0, 1),)),))
    groups = Groups((), (Layer("depth", "depth", 0, 3),), coupling)
    params, flops = cost(groups, "params"), cost(groups, "flops")
    for kept in itertools.product((0.0, 1.0), repeat=3):
        a, b, c = kept
        assert params(np.array(kept)) == 5 * max(a, b) * c
        assert flops(np.array(kept)) == 6 * max(a, b)
    half = np.array([0.5, 0.25, 1.0])
    assert params(half) == pytest.approx(5 * (1 - 0.5 * 0.75))
    np.testing.assert_allclose(params.gradient(half), [5 * 0.75, 5 * 0.5, 5 * 0.625])
