"""A trace says which module takes a statistic over which axis."""

from __future__ import annotations

import torch
from torch import nn

from cuts import Apply
from networks import images
from secateur.tracing.tracer import trace
from streams import TOKENS, Centred, stream


def test_each_norm_of_a_stream_is_found_with_its_axis():
    found = trace(stream(), TOKENS)
    names = [f"blocks.{block}.norms.{norm}" for block in range(2) for norm in range(2)]
    assert [s.module for s in found.statistics] == [*names, "last"]
    (axis,) = [axis for axis in found.axes if axis.mixed]
    for statistic in found.statistics:
        assert (statistic.shape, statistic.dim) == ((2, 7, 12), -1)
        assert found.component[statistic.atoms].tolist() == axis.components.tolist()
    assert axis.protected == axis.mixed


def test_a_norm_by_hand_may_take_several():
    found = trace(stream(Centred), TOKENS).statistics
    reasons = {s.reason for s in found if s.module == "last"}
    assert reasons == {"is reduced by mean", "is reduced by var"}


def test_the_axis_is_where_the_module_is_given_it():
    """Channels first, although the statistic is taken where they are last."""

    def run(m, x):
        x = x.movedim(1, -1)
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)).movedim(-1, 1)

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Apply(run), nn.Flatten(), nn.Linear(8 * 36, 2))
    (statistic,) = trace(model, images(2, 3, 6, 6)).statistics
    assert (statistic.module, statistic.shape, statistic.dim) == ("1", (2, 8, 6, 6), -3)


def test_what_is_given_more_than_one_tensor_has_no_axis():
    gated = Apply(lambda m, x, y: (x * y) / (x * y).mean(-1, keepdim=True))
    parts = {"a": nn.Linear(3, 8), "b": nn.Linear(3, 8), "gated": gated, "last": nn.Linear(8, 2)}
    model = Apply(lambda m, x: m.last(m.gated(m.a(x), m.b(x))), **parts)
    (statistic,) = trace(model, images(4, 3)).statistics
    assert (statistic.module, statistic.shape) == ("gated", ())


def test_an_axis_that_something_else_protects_is_mixed_as_well():
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8))
    (axis,) = trace(model, images(4, 3)).axes
    assert axis.protected == "reaches an output of the model" and "statistic" in axis.mixed
