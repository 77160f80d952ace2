"""Sizes kept as attributes follow the axes that they are the size of, and no others."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import secateur as sc
from cuts import some_dead
from networks import images
from secateur.surgery.equivalence import difference


class Halves(nn.Module):
    """The C2f pattern: a split by a stored size, one half filtered, all of it concatenated."""

    def __init__(self, unrelated: int = 3) -> None:
        super().__init__()
        self.half, self.unrelated = 8, unrelated
        self.first, self.inner = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(24, 4, 1)

    def forward(self, x):
        a, b = self.first(x).split((self.half, self.half), 1)
        return self.last(torch.cat([a, b, self.inner(b) * self.unrelated], 1)).flatten(1)


class Restored(nn.Module):
    """A linear layer that restores its result's shape from a stored width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.randn(6, width))

    def forward(self, x):
        return (x.reshape(-1, x.shape[-1]) @ self.weight).view(*x.shape[:-1], self.width)


def shrunk(model: nn.Module, groups: sc.Groups) -> nn.Module:
    keep = torch.from_numpy(~some_dead(groups, 0)).double()
    groups.scale_(keep)
    return sc.shrink(model, groups)


def test_a_split_by_a_stored_size_follows_saves_and_shrinks_again(tmp_path):
    model, x = Halves(), images(2, 3, 8, 8)
    small = shrunk(model, sc.filters(model, x))
    assert small.half == 4 == small.inner.in_channels
    assert small.unrelated == 3
    assert model.half == 8
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=Halves())
    assert loaded.half == 4
    assert difference(small, loaded, x) == 0
    smaller = shrunk(small, sc.filters(small, x))
    assert smaller.half == 2
    loaded = sc.load(sc.save(smaller, tmp_path / "smaller.safetensors"), model=Halves())
    assert difference(smaller, loaded, x) == 0


def test_a_view_by_a_stored_width_follows():
    model = nn.Sequential(Restored(12), nn.GELU(), nn.Linear(12, 2))
    x = images(2, 5, 6)
    small = shrunk(model, sc.neurons(model, x))
    assert small[0].width == 6


def test_an_attribute_that_only_happens_to_have_the_value_is_found_out():
    """The factor 8 would shrink with the half of 8 channels: never wrong, only less."""
    x = images(2, 3, 8, 8)
    assert "first" in {layer.name for layer in sc.filters(Halves(), x).layers}
    refused = {name: reason for name, _, reason in sc.filters(Halves(unrelated=8), x).refused}
    assert "changes the output" in refused["first"]


def test_one_size_of_two_axes_stays():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size = 8
            self.first, self.second = nn.Linear(3, 8), nn.Linear(3, 8)
            self.last = nn.Linear(16, 2)

        def forward(self, x):
            a, b = self.first(x), self.second(x)
            return self.last(torch.cat([a.view(-1, self.size), b.view(-1, self.size)], 1))

    model = Shared()
    with pytest.raises(ValueError, match="the smaller network does not run"):
        sc.neurons(model, (images(2, 3),))


def test_of_two_axes_the_one_that_is_written_down_counts():
    """As in GPT-2, where a square layer also flattens its input, by the size that this has."""

    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.weight = 8, nn.Parameter(torch.randn(8, 8))

        def forward(self, x):
            shape = (*x.shape[:-1], self.width)
            x = x.view(-1, x.size(-1)) @ self.weight
            return x.view(shape)

    def network() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 8), nn.GELU(), Flattened(), nn.GELU(), nn.Linear(8, 2))

    x = images(2, 5, 3)
    for ignored, shape in (["0"], (8, 4)), ([], (4, 4)), (["2"], (4, 8)):
        model = network()
        small = shrunk(model, sc.neurons(model, x, ignore=ignored))
        assert small[2].weight.shape == shape
        assert small[2].width == shape[1]


def test_a_number_that_only_meets_the_size_in_a_product_stays():
    """A product of matrices reshapes its operands to sizes that nobody wrote down."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.factor = nn.Linear(3, 8), nn.Linear(8, 2), 8

        def forward(self, x):
            mixed = torch.ones(2, 1, 5, 5) @ self.first(x)
            return self.last(mixed * self.factor)

    groups = sc.neurons(Scaled(), images(2, 4, 5, 3))
    assert groups.coupling is not None and groups.coupling.sizes == ()


class Cell(nn.Module):
    """One step of a recurrent network, whose width its caller reads."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.inside = nn.Linear(3 + 8, 8)


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = Cell(), nn.Linear(8, 2)

    def forward(self, x):
        state = x.new_zeros(len(x), self.cell.width)
        for now in x.unbind(1):
            state = self.cell.inside(torch.cat([now, state], 1)).tanh()
        return self.last(state)


def test_a_size_that_another_module_s_code_reads_follows():
    model, x = Steps().eval(), images(4, 5, 3)
    groups = sc.neurons(model, x)
    assert [(layer.name, len(layer)) for layer in groups.layers] == [("cell.inside", 8)]
    small = sc.shrink(model, groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1, 1, 1])))
    assert small.cell.width == 5 and difference(model, small, x) <= 1e-5


@pytest.mark.parametrize(
    ("norm", "attributes"),
    [
        (nn.InstanceNorm2d(12), {"num_features": 6}),
        (nn.BatchNorm2d(12, affine=False, track_running_stats=False), {"num_features": 6}),
        (nn.GroupNorm(4, 12, affine=False), {"num_channels": 6, "num_groups": 2}),
        (nn.GroupNorm(12, 12, affine=False), {"num_channels": 6, "num_groups": 6}),
    ],
    ids=["instance", "batch", "group", "group of one"],
)
def test_normalisations_without_tensors_follow(norm, attributes, tmp_path):
    def make() -> nn.Module:
        layers = nn.Conv2d(3, 12, 3), copy.deepcopy(norm), nn.ReLU(), nn.Conv2d(12, 4, 1)
        return nn.Sequential(*layers)

    model, x = make(), images(3, 3, 8, 8)
    groups = sc.filters(model, x)
    groups.scale_((torch.arange(len(groups)) % 2).double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a num_features that does not fit
        small = sc.shrink(model, groups)
        small(x)
    assert {name: getattr(small[1], name) for name in attributes} == attributes
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=make())
    assert {name: getattr(loaded[1], name) for name in attributes} == attributes
    assert difference(small, loaded, x) == 0
