"""Zeros where groups are dead, nothing else changed, for every layout of ids."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

import secateur as sc
from optim.training import groups_of, network
from secateur.groups import Groups, Layer, Member
from secateur.optim.support import Support


def test_only_dead_entries_become_zero() -> None:
    model = network()
    groups = groups_of(model)
    kept = np.random.default_rng(0).random(30) < 0.5
    expected = copy.deepcopy(model)
    groups.on(expected).scale_(torch.from_numpy(kept.astype(np.float32)))
    for p in model.parameters():
        p.grad = p.detach().clone()
    support = Support(groups, kept)
    support.clear_parameters_()
    support.clear_gradients_()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.grad is not None
        assert torch.equal(mine.grad, theirs)


def test_several_layouts_in_one_parameter() -> None:
    """Blocks of 2 x 2 above, single columns below: a view, and two members in one parameter."""
    weight = nn.Parameter(torch.arange(1.0, 25).reshape(6, 4))
    blocks = torch.full((3, 1, 2, 1), -1)
    blocks[:2, 0, :, 0] = torch.arange(4).reshape(2, 2)
    columns = torch.full((6, 4), -1)
    columns[4:] = torch.arange(4, 8)
    groups = Groups(
        (Member("w", weight, blocks, (3, 2, 2, 2)), Member("w", weight, columns)),
        (Layer("w", "own", 0, 8),),
    )
    kept = np.array([0, 1, 1, 0, 1, 0, 1, 0], bool)
    expected = weight.detach().clone()
    expected[:2, :2] = expected[2:4, 2:] = 0
    expected[4:, [1, 3]] = 0
    Support(groups, kept).clear_parameters_()
    assert torch.equal(weight.detach(), expected)


def test_state_is_cleared_where_it_has_the_parameter_s_shape() -> None:
    model = nn.Linear(4, 3)
    groups = sc.custom(model, {"weight": torch.arange(3).reshape(3, 1)})
    state = {
        model.weight: {
            "step": torch.tensor(7.0),
            "mean": torch.ones(3, 4, dtype=torch.float64),
            "rows": torch.ones(3),
            "codes": torch.ones(3, 4, dtype=torch.uint8),
            "name": "own",
        }
    }
    Support(groups, np.array([True, False, True])).clear_state_(state)
    found = state[model.weight]
    assert found["mean"].sum(1).tolist() == [4, 0, 4]  # pyright: ignore
    assert found["step"] == 7
    assert found["rows"].tolist() == [1, 1, 1]  # pyright: ignore
    assert found["codes"].sum() == 12  # pyright: ignore


def test_nothing_dead_is_nothing_to_do() -> None:
    model = network()
    support = Support(groups_of(model), np.ones(30, bool))
    before = [parameter._version for parameter in model.parameters()]
    support.clear_parameters_()
    support.clear_gradients_()
    assert [parameter._version for parameter in model.parameters()] == before
