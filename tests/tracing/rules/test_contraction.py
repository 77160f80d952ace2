"""Matrix products and convolutions: who produces, who consumes, who is tied."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from cuts import Apply, axes, cut_out, some_dead
from networks import images


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.last(F.linear(x, m.w, m.b)),
        lambda m, x: m.last(x @ m.w.t() + m.b),
        lambda m, x: m.last(torch.einsum("ni,oi->no", x, m.w) + m.b),
        lambda m, x: m.last(torch.stack([m.w @ row for row in x]) + m.b),
        lambda m, x: m.last(torch.baddbmm(m.b, x[None], m.w.t()[None])[0]),
    ],
    ids=["linear", "mm", "einsum", "mv", "baddbmm"],
)
def test_rows_produce_and_columns_consume_in_any_notation(run):
    model = Apply(
        run,
        w=nn.Parameter(torch.randn(6, 3)),
        b=nn.Parameter(torch.randn(6)),
        last=nn.Linear(6, 2),
    )
    groups = sc.neurons(model, images(4, 3))
    assert len(groups) == 6
    assert {(m.name, tuple(m.ids.shape)) for m in groups.members} == {("w", (6, 1)), ("b", (6,))}
    removal, gap = cut_out(model, groups, some_dead(groups, 0))
    assert gap <= 1e-5
    assert removal.model.last.weight.shape == (2, 3)


def test_a_transposed_convolution_produces_along_its_second_dimension():
    model = Apply(
        lambda m, x: m.last(m.up(m.first(x).relu()).relu()),
        first=nn.Conv2d(3, 4, 1),
        up=nn.ConvTranspose2d(4, 6, 2, 2),
        last=nn.Conv2d(6, 2, 1),
    )
    groups = sc.filters(model, images(1, 3, 4, 4))
    shapes = {m.name: tuple(m.ids.shape) for m in groups.members}
    assert shapes["up.weight"] == (1, 6, 1, 1) and shapes["first.weight"] == (4, 1, 1, 1)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_convolutions_lose_whole_groups(groups, transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = Apply(
        lambda m, x: m.last(m.mid(m.first(x).relu()).relu()),
        first=nn.Conv2d(3, 8, 1),
        mid=kind(8, 16, 3, groups=groups),
        last=nn.Conv2d(16, 2, 1),
    )
    x = images(2, 3, 8, 8)
    found = sc.filters(model, x)
    assert len(found) == groups
    removal, gap = cut_out(model, found, some_dead(found, 0))
    assert gap <= 1e-5
    mid = removal.model.mid
    assert (mid.in_channels, mid.out_channels, mid.groups) == (4, 8, groups // 2)


def test_a_depthwise_multiplier_keeps_its_copies_together():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1)
    )
    found = sc.filters(model, images(2, 3, 6, 6))
    assert len(found) == 4
    assert cut_out(model, found, some_dead(found, 0))[1] <= 1e-5


def test_a_weight_used_both_ways_round_is_grouped_one_way():
    """A tied autoencoder in the middle of a network makes its inputs and its hidden units."""
    model = Apply(
        lambda m, x: m.last(F.linear(F.linear(m.first(x), m.w).relu(), m.w.t())),
        first=nn.Linear(3, 5),
        w=nn.Parameter(torch.randn(7, 5)),
        last=nn.Linear(5, 2),
    )
    groups = sc.neurons(model, images(4, 3))
    assert any("also makes dimension" in reason for _, _, reason in groups.refused)
    for seed in range(3):
        assert cut_out(model, groups, some_dead(groups, seed))[1] <= 1e-5


def test_a_low_rank_update_passes_its_role_on():
    """W + B A: the rows of W and B make the output, the columns of W and A only read."""
    model = Apply(
        lambda m, x: m.last(F.linear(m.first(x).relu(), m.w + m.b @ m.a).relu()),
        first=nn.Linear(3, 5),
        w=nn.Parameter(torch.randn(6, 5)),
        a=nn.Parameter(torch.randn(2, 5)),
        b=nn.Parameter(torch.randn(6, 2)),
        last=nn.Linear(6, 2),
    )
    groups = sc.neurons(model, images(4, 3))
    assert [set(layer.producers) for layer in groups.layers] == [
        {"w", "b"},
        {"first.weight", "first.bias"},
    ]
    for seed in range(3):
        assert cut_out(model, groups, some_dead(groups, seed))[1] <= 1e-5


def test_channels_along_space_are_not_cut():
    model = Apply(
        lambda m, x: m.conv(m.first(x)[:, None]).flatten(1),
        first=nn.Linear(3, 12),
        conv=nn.Conv1d(1, 2, 3),
    )
    assert "slides over" in axes(model, images(2, 3))[1]["first"]


def test_an_axis_contracted_with_data_stays():
    model = Apply(lambda m, x: m.first(x) @ torch.ones(4, 2), first=nn.Linear(3, 4))
    assert "no group owns" in axes(model, images(2, 3))[1]["first"]
