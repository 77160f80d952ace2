"""Counted ids give what the same ids, stored, give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.groups import Groups, Layer, Member
from secateur.groups.elementwise import Elements

CASES = [
    ((3, 8), -1, None),
    ((3, 7), 1, 4),
    ((6, 3), 0, 4),
    ((4, 8, 3, 2), 1, 8),
    ((5, 9, 2), 1, 8),
]


def pair(shape, dim, size, start=5) -> tuple[Groups, Groups]:
    """The same groups of two equal parameters, by counted and by stored ids."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    counted = Elements("w", nn.Parameter(values.clone()), start, dim, size)
    stored = Member("w", nn.Parameter(values.clone()), counted.ids)
    layers = (Layer("w", "weights", 0, counted.stop),)
    return Groups((counted,), layers), Groups((stored,), layers)


@pytest.mark.parametrize(("shape", "dim", "size"), CASES)
def test_norms_liveness_costs_and_scaling_are_those_of_stored_ids(shape, dim, size):
    counted, stored = pair(shape, dim, size)
    factors = (torch.arange(len(counted)) % 3).double()
    for groups in (counted, stored):
        groups.scale_(factors)
    assert torch.equal(counted.members[0].parameter, stored.members[0].parameter)
    torch.testing.assert_close(counted.norms(), stored.norms(), rtol=1e-15, atol=0)
    for gradient in (
        torch.randn(shape),
        torch.randn(shape[::-1]).permute(*range(len(shape))[::-1]),
    ):
        products = [groups.products([gradient]) for groups in (counted, stored)]
        torch.testing.assert_close(*products, rtol=1e-15, atol=0)
    assert counted.members[0].has_gaps == stored.members[0].has_gaps
    assert torch.equal(counted.alive(), stored.alive())
    assert counted.alive()[5:].float().mean() == pytest.approx(2 / 3, abs=0.05)
    assert torch.equal(counted.costs, stored.costs)
    padded = counted.pad(factors)
    spread = stored.members[0].spread(padded).expand(shape)
    assert torch.equal(counted.members[0].spread(padded), spread)


@pytest.mark.parametrize(("shape", "dim", "size"), CASES)
def test_consecutive_numbers_run_along_the_dimension(shape, dim, size):
    ids = pair(shape, dim, size)[0].members[0].ids
    lines = ids.movedim(dim, -1).reshape(-1, ids.shape[dim])
    whole = lines[:, : size or ids.shape[dim]]
    assert (whole.diff(dim=1) == 1).all() and whole.min() == 5
    assert (lines[:, whole.shape[1] :] == -1).all()
    assert len(whole.unique()) == whole.numel()


def test_moving_and_another_parameter_keep_the_view():
    member = pair((4, 8, 3, 2), 1, 8)[0].members[0]
    other = nn.Parameter(torch.zeros(4, 8, 3, 2))
    moved = member.moved(10).of(other)
    assert moved.parameter is other and moved.stop == member.stop + 10
    assert torch.equal(moved.ids, member.ids + 10)


def test_half_precision_and_channels_last_weights_scale_in_place():
    weight = torch.randn(4, 8, 3, 3).to(torch.bfloat16).to(memory_format=torch.channels_last)
    member = Elements("w", nn.Parameter(weight), 0, 1)
    storage = member.parameter.untyped_storage().data_ptr()
    expected = weight.clone()
    expected[:, ::2] = 0
    member.scale_(torch.tensor([0.0, 1.0]).repeat(4 * 9 * 4).double())
    assert torch.equal(member.parameter, expected)
    assert member.parameter.untyped_storage().data_ptr() == storage


def test_overlaps_with_stored_ids_are_seen():
    model = nn.Linear(4, 2)
    first = Groups(
        (Elements("weight", model.weight, 0, 1, 2),), (Layer("weight", "weights", 0, 4),)
    )
    column = torch.tensor([[-1, 0, -1, -1]])
    second = Groups((Member("weight", model.weight, column),), (Layer("w", "custom", 0, 1),))
    with pytest.raises(ValueError, match="overlap in weight: 2 of its 8"):
        first + second
    free = Groups((Member("weight", model.weight, column.roll(1)),), (Layer("w", "custom", 0, 1),))
    assert len(first + free) == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_looking_at_elements_does_not_change_them(dtype):
    weight = nn.Parameter(torch.tensor([[3.0, -0.5], [2.0, 0.0]], dtype=dtype))
    groups = Groups((Elements("w", weight),), (Layer("w", "weights", 0, 4),))
    assert groups.norms().tolist() == [3.0, 0.5, 2.0, 0.0]
    assert groups.alive().tolist() == [True, True, True, False]
    assert weight.tolist() == [[3.0, -0.5], [2.0, 0.0]]
