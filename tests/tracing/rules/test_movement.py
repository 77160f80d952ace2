"""Labels go where the operator carries the values; fixed positions stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from cuts import Apply, axes, cut_out, some_dead
from networks import images


def between(move, width: int = 12, out: int = 12, **more):
    """A linear layer, something that moves its outputs, and another one that reads them."""
    return Apply(
        lambda m, x: m.last(move(m.first(x).relu())),
        first=nn.Linear(3, width),
        last=nn.Linear(out, 2),
        **more,
    )


FOLLOWED = {
    "reshape": (lambda x: x.view(5, 3, -1).mT.flatten(1), 4),  # rectangular: three at a time
    "flip": (lambda x: x.flip(1), 12),
    "transpose": (lambda x: x.t().contiguous().t(), 12),
    "repeat": (lambda x: x.repeat(1, 2), 12),
    "expand": (lambda x: x[:, None].expand(5, 3, -1).flatten(1), 12),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), 12),
    "padding": (lambda x: F.pad(x, (2, 3)), 12),
    "padding with a value": (lambda x: F.pad(x, (2, 0), value=7.0), 12),
    "halves": (lambda x: sum(x.chunk(2, 1)), 6),
    "first half": (lambda x: x[:, : x.shape[1] // 2], 6),
    "split": (lambda x: torch.cat(x.split(x.shape[1] // 3, 1)[::-1], 1), 4),
    "unflatten": (lambda x: x.unflatten(1, (2, -1)).sum(1), 6),
    "unbind": (lambda x: x.view(5, 2, -1).unbind(1)[1], 6),
    "stack": (lambda x: torch.stack([x, -x], 1).flatten(1), 12),
    "cat with itself": (lambda x: torch.cat([x, x.tanh()], 1), 12),
    "cat with data": (lambda x: torch.cat([x, torch.ones(5, 4)], 1), 12),
    "rolled batch": (lambda x: x.roll(1, 0), 12),
    "index the batch": (lambda x: x[[4, 0, 1]], 12),
    "write rows": (lambda x: x.index_put((torch.tensor([0, 3]),), x[1:3]), 12),
    "pairs as complex numbers": (
        lambda x: torch.view_as_real(torch.view_as_complex(x.view(5, -1, 2)) * 1j).flatten(1),
        6,
    ),
    "new ones of its type": (lambda x: x * x.new_ones(1), 12),
    "expanded constant": (lambda x: x * torch.tensor([0.5]).expand_as(x), 12),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_moved_channels_leave_exactly(name):
    move, count = FOLLOWED[name]
    out = move(torch.ones(5, 12)).shape[1]
    model, x = between(move, out=out), images(5, 3)
    assert axes(model, x)[0] == {"first": count}
    found = sc.neurons(model, (x,))
    assert found.refused[-1][0] == "last"
    for seed in range(2):
        assert cut_out(model, found, some_dead(found, seed))[1] <= 1e-5


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        (lambda x: x[:, 1:7], "is cut by slice"),
        (lambda x: x[:, ::2], "is cut by slice"),
        (lambda x: x[:, 3:4], "is cut by slice"),
        (lambda x: torch.cat(x.split([5, 7], 1)[::-1], 1), "is cut by split"),
        (lambda x: x.roll(1, 1), "is moved by roll"),
        (lambda x: x.unfold(1, 4, 2).flatten(1), "is moved by unfold"),
        (lambda x: torch.tril(x), "is moved by tril"),
        (lambda x: F.pad(x, (-1, 0)), "is cut or repeated by constant_pad_nd"),
        (lambda x: F.pad(x, (1, 1), mode="reflect"), "is cut or repeated by reflection_pad1d"),
        (lambda x: x[:, [3, 1]], "is indexed by index"),
        (lambda x: x.index_select(1, torch.tensor([0, 5])), "is indexed by index_select"),
        (lambda x: x[x > -1].view(5, 12), "chooses what index reads"),
        (lambda x: x.gather(1, torch.zeros(5, 2, dtype=torch.int64)), "addressed by gather"),
    ],
)
def test_fixed_positions_stay(move, reason):
    x = images(5, 3)
    out = move(torch.ones(5, 12)).shape[1]
    free, kept = axes(between(move, out=out), x)
    assert free == {} and reason in kept["first"]


@pytest.mark.parametrize("padding", [0, 1])
def test_unfolded_windows_keep_their_channels(padding):
    """The zeros that unfold pads with belong to nobody: not to the first label."""
    model = Apply(
        lambda m, x: m.last(F.unfold(m.first(x), 3, padding=padding).mean(2)),
        first=nn.Conv2d(3, 4, 1),
        last=nn.Linear(4 * 9, 2),
    )
    free, kept = axes(model, images(2, 3, 6, 6))
    assert free == ({"first": 4} if padding == 0 else {})
    assert padding == 0 or "no removable axis" in kept["first"]


def test_a_shortcut_that_pads_channels():
    """ResNet's option A: new channels stand beside the old ones, which are added to."""
    model = Apply(
        lambda m, x: m.head(
            (F.pad(m.stem(x).relu(), (0, 0, 0, 0, 2, 2)) + m.conv(x)).relu().mean((2, 3))
        ),
        stem=nn.Conv2d(3, 4, 3, padding=1),
        conv=nn.Conv2d(3, 8, 3, padding=1),
        head=nn.Linear(8, 2),
    )
    groups = sc.filters(model, images(2, 3, 6, 6))
    assert groups.layers[0].name == "stem"
    for seed in range(3):
        assert cut_out(model, groups, some_dead(groups, seed))[1] <= 1e-5


def test_a_border_around_the_image_belongs_to_its_channels():
    def run(m, x):
        return m.last(F.pad(m.first(x).relu(), (0, 1, 0, 1))).flatten(1)

    model = Apply(run, first=nn.Conv2d(3, 8, 3), last=nn.Conv2d(8, 2, 3, stride=2))
    found = sc.filters(model, images(2, 3, 8, 8))
    assert len(found) == 8
    assert cut_out(model, found, some_dead(found, 0))[1] <= 1e-5


def test_a_tensor_turned_in_place_keeps_its_labels():
    def run(m, x):
        y = m.first(x).relu().t_().unsqueeze_(0).squeeze_(0).transpose_(0, 1)
        return m.last(y)

    model, x = Apply(run, first=nn.Linear(3, 12), last=nn.Linear(12, 2)), images(5, 3)
    assert axes(model, x)[0] == {"first": 12}
    found = sc.neurons(model, (x,))
    assert cut_out(model, found, some_dead(found, 0))[1] <= 1e-5


def test_a_batch_of_one_squeezed_in_place_is_left_alone():
    """A plane has size 1 wherever labels don't vary, so a bare squeeze_ says nothing about it."""

    def run(m, x):
        return m.last(m.first(x).squeeze_())

    model = Apply(run, first=nn.Linear(3, 12), last=nn.Linear(12, 2))
    assert axes(model, images(5, 3))[0] == {}


@pytest.mark.parametrize("dim", [1, 2])
def test_gathered_channels_leave_unless_they_are_addressed(dim):
    def run(m, x):
        y = m.first(x).relu()
        index = torch.tensor([1, 0, 2]).view((-1, 1) if dim == 1 else (1, -1))
        y = y.gather(dim, index.expand(2, 3, y.shape[2]) if dim == 1 else index.expand(2, 4, 3))
        return m.last(y)

    width = 12 if dim == 1 else 3
    model = Apply(run, first=nn.Linear(3, 12), last=nn.Linear(width, 2))
    assert axes(model, images(2, 4, 3))[0] == ({"first": 12} if dim == 1 else {})


def test_scattered_channels_run_in_step():
    def run(m, x):
        base, rows = m.first(x), m.other(x)
        index = torch.tensor([1, 0, 2, 2]).view(1, -1, 1).expand(2, 4, rows.shape[2])
        return m.last(base.scatter_add(1, index, rows))

    modules = {name: nn.Linear(3, 12) for name in ("first", "other")}
    model, x = Apply(run, **modules, last=nn.Linear(12, 2)), images(2, 4, 3)
    found = sc.neurons(model, (x,))
    assert [len(layer) for layer in found.layers] == [12]
    assert cut_out(model, found, some_dead(found, 0))[1] <= 1e-5
