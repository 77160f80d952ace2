"""Channels: what reads a channel decides, and what makes it goes along."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import networks
import secateur as sc
from cuts import Apply, counted, cut_out, predicted, some_dead
from networks import images

PICTURES = ["LeNet", "ResNet", "DenseNet", "MobileNet", "ResNeXt", "Shuffle", "UNet", "Sigmoids"]


@pytest.mark.parametrize("name", PICTURES)
def test_removing_unread_channels_is_exact_and_costs_what_was_predicted(name):
    example = images(2, 1, 28, 28) if name == "LeNet" else images(2, 3, 16, 16)
    model = networks.warm(getattr(networks, name)(), example)
    groups = sc.channels(model, example)
    dead = some_dead(groups, 0)
    removal, gap = cut_out(model, groups, dead)
    assert gap <= 1e-6 and removal.refused == ()
    assert predicted(groups, dead) == counted(removal.model, example)


def test_members_are_the_slices_that_read_and_layers_are_named_after_them():
    model = networks.LeNet()
    groups = sc.channels(model, images(1, 1, 28, 28))
    assert [(layer.name, len(layer)) for layer in groups.layers] == [
        ("conv2", 20), ("fc1", 50), ("fc2", 500),
    ]  # fmt: skip
    assert {m.name for m in groups.members} == {"conv2.weight", "fc1.weight", "fc2.weight"}
    flat = model.fc1.weight.detach().reshape(500, 50, 16).double()  # 16 inputs a channel
    torch.testing.assert_close(groups.norms()[20:70], flat.pow(2).sum((0, 2)).sqrt())


def test_all_readers_of_a_residual_sum_are_one_group():
    model = networks.ResNet()
    groups = sc.channels(model, images(1, 3, 16, 16))
    layer = next(layer for layer in groups.layers if layer.name == "layer1.conv1")
    assert set(layer.producers) == {
        "layer1.conv1.weight", "layer2.conv1.weight", "layer2.shortcut.0.weight",
    }  # fmt: skip


def test_makers_may_be_anything_even_behind_a_sigmoid_and_padding():
    """filters can't remove these: a dead filter leaves 0.5, which padding would cut at the rim."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3, padding=1), nn.Flatten()
    )
    example = images(2, 1, 6, 6)
    with pytest.raises(ValueError, match="pads a constant"):
        sc.filters(model, example)
    groups = sc.channels(model, example)
    removal, gap = cut_out(model, groups, some_dead(groups, 1))
    assert gap <= 1e-6 and removal.model[0].out_channels == 3 == removal.model[2].in_channels
    assert removal.plan.biases == ()


def test_the_input_of_the_model_is_refused_by_name():
    groups = sc.channels(networks.ResNet(), images(1, 3, 16, 16))
    assert ("stem", 3, "no weight makes it: the model's input keeps its shape") in groups.refused
    with pytest.raises(ValueError, match=r"no removable channels\n  weight? ?.*3.*input keeps"):
        sc.channels(nn.Conv2d(3, 4, 3), images(1, 3, 8, 8))


def test_what_others_than_weights_read_is_refused_by_name():
    groups = sc.channels(networks.Transformer(), images(2, 5, 8))
    refused = {name: reason for name, _, reason in groups.refused}
    assert "secateur.heads" in refused["proj"]
    assert [layer.name for layer in groups.layers] == ["down"]

    def both(self: Apply, x: Tensor) -> Tensor:
        hidden = self.up(x)  # pyright: ignore
        return self.down(hidden) + hidden.sum(-1, keepdim=True)  # pyright: ignore

    model = Apply(both, up=nn.Linear(4, 6), down=nn.Linear(6, 2))
    with pytest.raises(ValueError, match=r"down \(6\): removal changes the output"):
        sc.channels(model, images(2, 4))


def test_ignored_and_frozen_readers_keep_their_channels():
    model, example = networks.LeNet(), images(1, 1, 28, 28)
    model.fc1.weight.requires_grad_(False)
    model.conv1.requires_grad_(False)  # makes channels; what reads them decides
    groups = sc.channels(model, example, ignore="fc2")
    assert [layer.name for layer in groups.layers] == ["conv2"]
    reasons = {name: reason for name, _, reason in groups.refused}
    assert "frozen" in reasons["fc1"] and reasons["fc2"] == "ignored ('fc2')"


def test_one_channel_is_not_both_a_filter_and_an_input_channel():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    example = images(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"both kinds group the same channels of 0\.weight"):
        sc.filters(model, example) + sc.channels(model, example)


def test_filters_and_channels_of_other_layers_add():
    model, example = networks.LeNet(), images(2, 1, 28, 28)
    groups = sc.filters(model, example, ignore="conv2") + sc.channels(
        model, example, ignore=["conv2", "fc2"]
    )
    dead = some_dead(groups, 3)
    removal, gap = cut_out(model, groups, dead)
    assert gap <= 1e-6
    assert (removal.model.conv1.out_channels, removal.model.conv2.out_channels) == (10, 25)
    assert predicted(groups, dead) == counted(removal.model, example)
