"""Filters are output channels of convolutions, with what is tied to them."""

from __future__ import annotations

import torch
from torch import nn

import networks
import secateur as sc
from networks import images


def test_lenet_has_20_and_50_filters_with_their_biases():
    model = networks.LeNet()
    groups = sc.filters(model, images(1, 1, 28, 28))
    assert [(layer.name, len(layer)) for layer in groups.layers] == [("conv1", 20), ("conv2", 50)]
    assert {m.name for m in groups.members} == {
        "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias",
    }  # fmt: skip
    both = torch.cat([model.conv1.weight.flatten(1), model.conv1.bias[:, None]], 1)
    torch.testing.assert_close(groups.norms()[:20], both.double().norm(dim=1))


def test_a_zero_filter_is_a_zero_channel():
    model = networks.warm(networks.ResNet(), images(2, 3, 16, 16))
    groups = sc.filters(model, images(2, 3, 16, 16))
    groups.scale_(torch.arange(len(groups)).remainder(2).double())
    seen = []
    model.layer2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images(2, 3, 16, 16))
    channels = seen[0].abs().amax((0, 2, 3))
    assert (channels[0::2] == 0).all() and (channels[1::2] > 0).any()


def test_linear_units_that_share_an_axis_with_filters_are_filters():
    """Squeeze and excitation by linear layers: the gate leaves with the channel."""
    gate = nn.Linear(2, 6)

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.down, self.up = nn.Conv2d(3, 6, 3), nn.Linear(6, 2), gate
            self.head = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            scale = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
            return self.head((x * scale[:, :, None, None]).mean((2, 3)))

    model, x = Gate(), images(2, 3, 6, 6)
    assert [(la.name, len(la)) for la in sc.filters(model, x).layers] == [("conv", 6)]
    assert [(la.name, len(la)) for la in sc.neurons(model, x).layers] == [("down", 2)]
