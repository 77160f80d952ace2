"""Blocks are tiles of matrices; a convolution is one as (out, in x kernel)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norms_and_zeros_of_a_convolution_are_those_of_its_matrix(layout):
    model = nn.Conv2d(4, 8, 3).to(memory_format=layout)
    groups = sc.blocks(model, (2, 6))
    matrix = model.weight.detach().contiguous().reshape(8, 36).double()
    tiles = matrix.unfold(0, 2, 2).unfold(1, 6, 6)  # (4, 6, 2, 6)
    torch.testing.assert_close(groups.norms(), tiles.flatten(2).norm(dim=2).reshape(-1))
    factors = torch.ones(24).double()
    factors[7] = 0  # the second row of tiles, the second of its six
    groups.scale_(factors)
    expected = matrix.clone()
    expected[2:4, 6:12] = 0
    assert torch.equal(model.weight.detach().reshape(8, 36).double(), expected)


def test_the_rest_of_a_size_that_does_not_divide_is_in_no_group():
    model = nn.Linear(10, 7, bias=False)
    groups = sc.blocks(model, (3, 4))
    assert len(groups) == 2 * 2
    groups.scale_(torch.zeros(4))
    assert (model.weight[:6, :8] == 0).all()
    assert (model.weight[6:] != 0).all() and (model.weight[:, 8:] != 0).all()


def test_tiles_that_share_an_element_with_filters_are_refused_and_other_layers_are_not():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 10)
    )
    filters = sc.filters(model, torch.ones(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"overlap in 0\.weight: 64 of its 72 elements"):
        filters + sc.blocks(model)
    both = filters + sc.blocks(model, ignore=nn.Conv2d)
    assert [layer.kind for layer in both.layers] == ["filters", "filters", "blocks"]


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2.0, 4)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(rows, columns\)"):
        sc.blocks(nn.Linear(8, 8), shape)


def test_a_matrix_smaller_than_a_tile_is_refused_by_name():
    with pytest.raises(ValueError, match=r"weight \(6\): its 2 x 3 elements hold no whole tile"):
        sc.blocks(nn.Linear(3, 2))
