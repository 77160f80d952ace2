"""Reductions and lookups: a sum is exact, a mean is not, a softmax needs the whole axis."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from cuts import Apply, axes, cut_out, some_dead
from networks import images


def reduced(run, width: int = 6):
    return Apply(run, first=nn.Linear(3, width), last=nn.Linear(width, 2))


def test_a_sum_over_the_axis_is_exact():
    model = reduced(lambda m, x: m.last(m.first(x)) * m.first(x).sum(1, keepdim=True))
    groups = sc.neurons(model, images(4, 3))
    assert len(groups) == 6
    assert cut_out(model, groups, some_dead(groups, 0))[1] <= 1e-5


@pytest.mark.parametrize("name", ["mean", "amax", "var", "std", "prod", "logsumexp", "argmax"])
def test_other_reductions_over_the_axis_protect_it(name):
    model = reduced(lambda m, x: m.last(m.first(x)) * getattr(m.first(x), name)(1)[:, None])
    free, kept = axes(model, images(4, 3))
    assert free == {} and "is reduced by" in kept["first"]


@pytest.mark.parametrize("name", ["mean", "amax", "var", "std", "prod", "logsumexp"])
@pytest.mark.parametrize("keepdim", [False, True])
def test_reductions_over_other_axes_pass(name, keepdim):
    model = reduced(lambda m, x: m.last(getattr(m.first(x), name)(1, keepdim=keepdim).exp()))
    assert axes(model, images(4, 5, 3))[0] == {"first": 6}


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.softmax(-1),
        lambda x: x.log_softmax(-1),
        lambda x: x.cumsum(-1),
        lambda x: x.sort(-1).values,
        lambda x: x.topk(6, -1).values,
    ],
)
def test_what_runs_along_the_axis_protects_it(run):
    free, kept = axes(reduced(lambda m, x: m.last(run(m.first(x)))), images(4, 3))
    assert free == {} and "runs along" in kept["first"]
    free, _ = axes(reduced(lambda m, x: m.last(run(m.first(x).mT).mT)), images(4, 7, 3))
    assert free == {"first": 6}


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 3, 1, 1),
        lambda x: F.adaptive_avg_pool2d(x, 3),
        lambda x: F.adaptive_max_pool2d(x, 2),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.interpolate(x, size=(3, 3), mode="bicubic", antialias=True),
        lambda x: F.lp_pool2d(x, 2, 2),
        lambda x: F.grid_sample(x, images(2, 4, 4, 2).tanh(), align_corners=False),
    ],
)
def test_pooling_and_resampling_leave_channels_alone(pool):
    model = Apply(
        lambda m, x: m.last(pool(m.first(x)).mean((2, 3))),
        first=nn.Conv2d(3, 6, 1),
        last=nn.Linear(6, 2),
    )
    groups = sc.filters(model, images(2, 3, 8, 8))
    assert len(groups) == 6
    assert cut_out(model, groups, some_dead(groups, 0))[1] <= 1e-5


def test_the_columns_of_an_embedding_are_an_axis_and_its_rows_a_vocabulary():
    model = Apply(
        lambda m, x: m.last(m.table(x) + m.first(m.table(x).relu())),
        table=nn.Embedding(10, 6),
        first=nn.Linear(6, 6),
        last=nn.Linear(6, 2),
    )
    groups = sc.neurons(model, torch.tensor([[1, 2, 9]]))
    assert len(groups) == 6
    removal, gap = cut_out(model, groups, some_dead(groups, 0))
    assert gap <= 1e-5
    assert removal.model.table.weight.shape == (10, 3)
    assert (removal.model.table.num_embeddings, removal.model.table.embedding_dim) == (10, 3)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_the_columns_of_a_bag_of_embeddings_are_an_axis(mode):
    model = Apply(
        lambda m, x: m.last(m.bag(x) + m.first(m.bag(x).relu())),
        bag=nn.EmbeddingBag(10, 6, mode=mode),
        first=nn.Linear(6, 6),
        last=nn.Linear(6, 2),
    )
    bags = torch.tensor([[1, 2, 9], [3, 3, 0]])
    groups = sc.neurons(model, bags)
    assert len(groups) == 6
    removal, gap = cut_out(model, groups, some_dead(groups, 0))
    assert gap <= 1e-5
    table = removal.model.bag
    assert table.weight.shape == (table.num_embeddings, table.embedding_dim) == (10, 3)


def test_what_weighs_the_rows_of_a_bag_is_protected():
    model = Apply(
        lambda m, x: m.last(m.bag(x, per_sample_weights=m.scores(m.table(x).mean(1)))),
        bag=nn.EmbeddingBag(10, 6, mode="sum"),
        table=nn.Embedding(10, 4),
        scores=nn.Linear(4, 3),
        last=nn.Linear(6, 2),
    )
    bags = torch.tensor([[1, 2, 9], [3, 3, 0]])
    free, protected = axes(model, bags)
    assert free == {"bag.weight": 6, "table.weight": 4}
    assert "weighs what _embedding_bag looks up" in protected["scores"]


def test_a_spectrum_mixes_the_axis_that_it_is_of():
    model = Apply(
        lambda m, x: m.last(torch.fft.fft(m.first(x), dim=0).real), first=nn.Linear(3, 8),
        last=nn.Linear(8, 2),
    )  # fmt: skip
    assert axes(model, images(4, 3))[0] == {"first": 8}
    model = Apply(
        lambda m, x: m.last(torch.fft.fft(m.first(x), dim=1).real), first=nn.Linear(3, 8),
        last=nn.Linear(8, 2),
    )  # fmt: skip
    assert "is mixed by _fft" in axes(model, images(4, 3))[1]["first"]


def test_channels_survive_being_cut_into_windows_and_put_together():
    def run(m, x):
        windows = nn.functional.unfold(m.first(x), 2, stride=2)
        return m.last(nn.functional.fold(windows.relu(), (4, 4), 2, stride=2))

    model = Apply(run, first=nn.Conv2d(3, 6, 1), last=nn.Conv2d(6, 2, 1))
    x = images(2, 3, 4, 4)
    assert axes(model, x)[0] == {"first": 6}
    groups = sc.filters(model, x)
    assert cut_out(model, groups, some_dead(groups, 0))[1] <= 1e-5
