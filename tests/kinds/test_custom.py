"""Groups by hand: any partition, refused with a reason where it is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.surgery.removal import remove


def test_equal_ids_across_parameters_are_one_group():
    model = nn.Linear(3, 2)
    groups = sc.custom(model, {"weight": torch.tensor([[0], [1]]), "bias": torch.tensor([0, 1])})
    groups.scale_(torch.tensor([0.0, 1.0]))
    assert model.weight[0].abs().sum() == 0 == model.bias[0]
    assert groups.alive().tolist() == [False, True]
    assert groups.costs.tolist() == [4.0, 4.0]


def test_ids_broadcast_from_the_right():
    model = nn.Conv2d(4, 2, 3)
    groups = sc.custom(model, {"weight": torch.arange(3)})  # the columns of every kernel
    expected = model.weight.detach().double().square().sum((0, 1, 2)).sqrt()
    torch.testing.assert_close(groups.norms(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"wieght": torch.zeros(1)}, "no parameter 'wieght'; it has weight, bias"),
        ({"weight": torch.zeros(2, 3)}, "must be integers, got torch.float32"),
        ({"weight": torch.tensor([[True], [False]])}, "must be integers"),
        ({"weight": torch.zeros(5, 1, dtype=torch.int64)}, "do not broadcast"),
        ({"weight": torch.tensor([[0], [2]])}, r"without gaps; missing \[1\]"),
        ({"weight": torch.tensor([[-1], [-1]])}, "no parameter element is in a group"),
        ({}, "no parameter element is in a group"),
    ],
)
def test_what_is_no_partition_is_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        sc.custom(nn.Linear(3, 2), ids)


def test_groups_that_were_not_traced_stay_as_zeros():
    model = nn.Linear(3, 2)
    groups = sc.custom(model, {"weight": torch.tensor([[0], [1]])})
    dead = np.array([False, True])
    removal = remove(model, groups, dead)
    assert torch.equal(removal.model.weight, model.weight)
    assert removal.refused == (("custom", 1, removal.refused[0][2]),)
    assert "zeros in weights" in removal.refused[0][2]
