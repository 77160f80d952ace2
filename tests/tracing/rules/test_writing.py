"""A buffer that is filled piece by piece is a concatenation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from cuts import Apply, axes, cut_out, some_dead
from networks import images


def filled(make, **more):
    """Two linear layers write into one buffer, a third one reads it."""

    def run(m, x):
        a, b = m.a(x).relu(), m.b(x).tanh()
        y = make(a, a.shape[1] + b.shape[1])
        y[:, : a.shape[1]] = a
        y[:, a.shape[1] :] = b
        return m.last(y)

    return Apply(run, a=nn.Linear(3, 6), b=nn.Linear(3, 4), last=nn.Linear(10, 2), **more)


@pytest.mark.parametrize(
    "make",
    [
        lambda a, width: torch.empty(len(a), width),
        lambda a, width: a.new_empty(len(a), width),
        lambda a, width: a.new_full((len(a), width), 7.0),
        lambda a, width: torch.zeros(len(a), width),
    ],
    ids=["empty", "new_empty", "new_full", "zeros"],
)
def test_what_is_written_side_by_side_leaves_exactly(make):
    model, x = filled(make), images(5, 3)
    assert axes(model, x)[0] == {"a": 6, "b": 4}
    groups = sc.neurons(model, x)
    for seed in range(2):
        assert cut_out(model, groups, some_dead(groups, seed))[1] <= 1e-5


def test_what_is_written_below_one_another_is_tied():
    def run(m, x):
        a, b = m.a(x), m.b(x)
        y = a.new_empty(2 * len(a), a.shape[1])
        y[: len(a)] = a
        y[len(a) :] = b
        return m.last(y)

    model = Apply(run, a=nn.Linear(3, 6), b=nn.Linear(3, 6), last=nn.Linear(6, 2))
    assert axes(model, images(5, 3))[0] == {"a": 6}
    groups = sc.neurons(model, images(5, 3))
    assert set(groups.layers[0].producers) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_a_buffer_that_something_else_shares_stays():
    def run(m, x):
        y = torch.empty(len(x), 10)
        other = y.view(-1)
        y[:, :6] = m.a(x)
        y[:, 6:] = m.b(x)
        return m.last(y) + other.sum()

    model = Apply(run, a=nn.Linear(3, 6), b=nn.Linear(3, 4), last=nn.Linear(10, 2))
    assert axes(model, images(5, 3))[0] == {}


def test_a_piece_of_a_fixed_size_is_refused_by_the_trial():
    def run(m, x):
        y = torch.full((len(x), 8), 1.0)
        y[:, :4] = m.a(x).relu()
        return m.last(y)

    model = Apply(run, a=nn.Linear(3, 4), last=nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"(?s)no removable neurons.*does not run"):
        sc.neurons(model, images(5, 3))
