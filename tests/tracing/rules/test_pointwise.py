"""Entry by entry: what meets is tied, what meets the unknown stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cuts import Apply, axes
from networks import images


def two(run, **more):
    return Apply(run, a=nn.Linear(3, 4), b=nn.Linear(3, 4), last=nn.Linear(4, 2), **more)


@pytest.mark.parametrize(
    "combine",
    [
        torch.add,
        torch.mul,
        torch.maximum,
        torch.atan2,
        lambda a, b: torch.where(a > b, a, b),
        lambda a, b: torch.lerp(a, b, 0.3),
        lambda a, b: torch.addcmul(a, a, b),
        lambda a, b: a.masked_fill(b > 0, 0.0),
        lambda a, b: a.clone().copy_(b) + a,
    ],
)
def test_channels_that_meet_are_tied(combine):
    model = two(lambda m, x: m.last(combine(m.a(x), m.b(x))))
    assert axes(model, images(2, 3))[0] == {"a": 4}


def test_channels_that_do_not_meet_are_not():
    model = two(lambda m, x: m.last(m.a(x).relu()) + m.last(m.b(x).relu()))
    assert axes(model, images(2, 3))[0] == {"a": 4}  # they meet in the weight of `last`
    model = Apply(
        lambda m, x: m.last(m.a(x).relu()) + m.more(m.b(x).relu()),
        **dict(model.named_children()),
        more=nn.Linear(4, 2),
    )
    assert axes(model, images(2, 3))[0] == {"a": 4, "b": 4}


def test_a_full_tensor_without_labels_protects():
    model = two(lambda m, x: m.last(m.a(x) + torch.ones(2, 4) + 0 * m.b(x)))
    free, kept = axes(model, images(2, 3))
    assert free == {} and "is combined by add with a tensor that no group owns" in kept["a"]


def test_a_number_or_a_broadcast_tensor_does_not():
    model = two(lambda m, x: m.last(m.a(x) * 2 + torch.ones(2, 1) + x[:, :1] - m.b(x)))
    assert axes(model, images(2, 3))[0] == {"a": 4}


def test_a_plane_along_two_dimensions_ties_all_that_it_meets():
    """a varies along heads, b along size; a full scale varies along both and ties them all."""
    model = Apply(
        lambda m, x: m.last((m.a(x)[:, :, None] * m.b(x)[:, None, :] * m.scale).flatten(1)),
        a=nn.Linear(3, 4),
        b=nn.Linear(3, 5),
        scale=nn.Parameter(torch.randn(4, 5)),
        last=nn.Linear(20, 2),
    )
    free, _ = axes(model, images(2, 3))
    assert sum(free.values()) <= 5  # along one of the two at most


def test_a_gate_per_channel_of_another_layer():
    model = Apply(
        lambda m, x: m.last((m.conv(x) * m.gate(x.mean((2, 3)))[:, :, None, None]).mean((2, 3))),
        conv=nn.Conv2d(3, 6, 3),
        gate=nn.Linear(3, 6),
        last=nn.Linear(6, 2),
    )
    assert axes(model, images(2, 3, 8, 8))[0] == {"conv": 6}
