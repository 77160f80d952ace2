"""Normalisation ties the channels with its own vectors, and mixes some axes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import networks
import secateur as sc
from cuts import axes, cut_out, some_dead
from networks import images


def around(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(96, 2)
    )


@pytest.mark.parametrize(
    ("norm", "count"),
    [
        (nn.BatchNorm2d(8), 8),
        (nn.GroupNorm(4, 8), 4),
        (nn.GroupNorm(8, 8), 8),
        (nn.InstanceNorm2d(8, affine=True), 8),
        (nn.InstanceNorm2d(8, affine=True, track_running_stats=True), 8),
    ],
)
def test_channels_leave_with_their_norm(norm, count):
    model = around(norm)
    groups = sc.filters(model, images(2, 3, 6, 6))
    layer = groups.layers[0]
    assert (layer.name, len(layer)) == ("0", count)
    assert layer.producers == ("0.weight", "0.bias", "1.weight", "1.bias")
    networks.warm(model, images(2, 3, 6, 6))
    assert cut_out(model, groups, some_dead(groups, 0))[1] <= 1e-5


def test_one_group_of_all_channels_is_their_width():
    model, x = around(nn.GroupNorm(1, 8)), images(2, 3, 6, 6)
    assert "0" not in {layer.name for layer in sc.filters(model, x).layers}
    groups = sc.width(model, x)
    assert [(layer.name, len(layer)) for layer in groups.layers] == [("0", 8)]
    assert "a mean over all channels" in groups.layers[0].inexact


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8)])
def test_a_statistic_over_the_axis_protects_it(norm):
    model = nn.Sequential(nn.Linear(3, 8), norm, nn.Linear(8, 2))
    free, kept = axes(model, images(4, 3))
    assert free == {}
    assert "statistic" in kept["0"] or "reduced by" in kept["0"]


def test_weight_norm_directions_only_follow():
    model = nn.Sequential(
        weight_norm(nn.Linear(3, 8)), nn.ReLU(), weight_norm(nn.Linear(8, 6)), nn.Linear(6, 2)
    )
    groups = sc.neurons(model, images(4, 3))
    assert [(layer.name, len(layer)) for layer in groups.layers] == [("0", 8), ("2", 6)]
    assert not any(member.name.endswith("original1") for member in groups.members)
    dead = some_dead(groups, 0)
    removal, gap = cut_out(model, groups, dead)
    assert gap <= 1e-5
    assert all(bool(p.isfinite().all()) for p in removal.model.parameters())
    assert torch.equal(model[2].weight, model[2].weight)  # no NaN: no direction was zeroed
