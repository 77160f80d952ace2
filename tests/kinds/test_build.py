"""What the user or the model keeps from being grouped, and how that is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import networks
import secateur as sc
from cuts import Apply, counted, cut_out, predicted, some_dead
from networks import images

X = images(2, 3, 16, 16)


def kept(groups: sc.Groups) -> set[str]:
    return {layer.name for layer in groups.layers}


@pytest.mark.parametrize("how", ["name", "prefix", "module", "parameter"])
def test_ignored_axes_are_not_grouped(how):
    model = networks.ResNet()
    ignore = {
        "name": "layer2.conv1",
        "prefix": "layer2",
        "module": model.layer2.conv1,
        "parameter": ["layer2.bn1.weight"],
    }[how]
    groups = sc.filters(model, X, ignore=ignore)
    everything = {"stem", "layer1.conv1", "layer2.conv1", "layer2.conv2", "layer3.conv1"}
    everything |= {"layer3.conv2"}
    gone = {"layer2.conv1", "layer2.conv2"} if how == "prefix" else {"layer2.conv1"}
    assert kept(groups) == everything - gone
    assert {name for name, _, _ in groups.refused} == gone
    assert all("ignored" in reason for _, _, reason in groups.refused)


def test_ignoring_one_of_two_coupled_layers_keeps_both():
    groups = sc.filters(networks.ResNet(), X, ignore="layer1.conv2")
    assert "stem" not in kept(groups)
    assert ("stem", 8, "ignored ('layer1.conv2')") in groups.refused


def test_types_may_be_ignored():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 5, 2), nn.Conv2d(5, 2, 1))
    assert kept(sc.filters(model, X)) == {"0", "1"}
    assert kept(sc.filters(model, X, ignore=nn.ConvTranspose2d)) == {"0"}


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ("layer2.conv3", r"'layer2\.conv3': ResNet has no such module; did you mean 'layer2\.conv"),
        (["stem", "xyz"], "'xyz': ResNet has no such module$"),
        (nn.Conv3d, "Conv3d: ResNet has no such module"),
        (nn.Linear(1, 1), "Linear: ResNet has no such module"),
    ],
)
def test_what_is_not_in_the_model_can_not_be_ignored(ignore, message):
    with pytest.raises(ValueError, match=message):
        sc.filters(networks.ResNet(), X, ignore=ignore)


def test_frozen_producers_stay_and_are_named():
    model = networks.ResNet()
    model.layer1.bn2.requires_grad_(False)
    groups = sc.filters(model, X)
    reason = "its parameter layer1.bn2.weight is frozen (requires_grad=False)"
    assert ("stem", 8, reason) in groups.refused
    assert "stem" not in kept(groups)


def test_frozen_consumers_may_lose_inputs():
    model = networks.LeNet()
    model.fc2.requires_grad_(False)
    groups = sc.neurons(model, images(1, 1, 28, 28))
    small = cut_out(model, groups, some_dead(groups, 0))[0].model
    assert small.fc2.weight.shape == (10, 250) and not small.fc2.weight.requires_grad


def test_no_groups_lists_every_reason():
    with pytest.raises(ValueError) as error:
        sc.filters(networks.LeNet(), images(1, 1, 28, 28), ignore=["conv1", "conv2"])
    assert str(error.value).splitlines() == [
        "LeNet has no removable filters",
        "  conv1 (20): ignored ('conv1')",
        "  conv2 (50): ignored ('conv2')",
    ]


class Sized(nn.Module):
    """Its own code knows the width of a layer, so nothing narrower runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).view(-1, 8).relu()
        return self.c(self.b(x).relu())


def test_a_layer_whose_size_the_code_fixes_is_refused_and_the_others_are_not():
    groups = sc.neurons(Sized(), images(4, 3))
    assert kept(groups) == {"b"}
    reason = next(why for name, _, why in groups.refused if name == "a")
    assert reason.startswith("the smaller network does not run") or "changes the output" in reason


def test_a_bias_for_a_shared_weight_is_counted_once_a_layer():
    left, right = nn.Linear(6, 4, bias=False), nn.Linear(6, 4, bias=False)
    right.weight = left.weight
    model = Apply(
        lambda m, x: m.last(m.left(m.first(x).sigmoid()) * m.right(m.first(x).sigmoid() + 1)),
        first=nn.Linear(3, 6),
        left=left,
        right=right,
        last=nn.Linear(4, 2),
    )
    groups = sc.neurons(model, images(4, 3))
    assert kept(groups) == {"first", "left"}
    dead = some_dead(groups, 0)
    removal, gap = cut_out(model, groups, dead)
    assert gap <= 1e-5
    assert set(removal.plan.biases) == {"left.bias", "right.bias"}
    assert predicted(groups, dead) == counted(removal.model, images(4, 3))


def test_the_example_is_kept_as_it_was():
    x = images(2, 1, 28, 28)
    groups = sc.filters(networks.LeNet(), x)
    before = x.clone()
    x.zero_()
    assert torch.equal(groups.example, before)
