"""Neurons are hidden units of linear layers; what attention reads is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import networks
import secateur as sc
from networks import images


def test_only_the_feed_forward_width_of_a_transformer_is_neurons():
    groups = sc.neurons(networks.Transformer(hidden=48), images(2, 5, 8))
    assert [(layer.name, len(layer)) for layer in groups.layers] == [("up", 48)]
    assert ("embed", 16, "is mixed by the statistic of native_layer_norm") in groups.refused


@pytest.mark.parametrize("kind", ["up", "up2"])
def test_a_fused_gate_loses_both_halves_of_a_unit(kind):
    model = networks.Gated(width=6, hidden=16)
    groups = sc.neurons(model, images(3, 6))
    layer = next(layer for layer in groups.layers if layer.name == kind)
    rows = next(m for m in groups.members if m.name == f"{kind}.weight").ids.flatten()
    assert len(layer) == 16
    assert rows[:16].tolist() == rows[16:].tolist() == list(range(layer.start, layer.stop))


def test_token_mixing_and_channel_mixing_have_hidden_units():
    groups = sc.neurons(networks.Mixer(hidden=14), images(2, 3, 16, 16))
    assert [(la.name, len(la)) for la in groups.layers] == [("tokens.0", 14), ("channels.0", 24)]


def test_features_that_a_graph_mixes_are_neurons():
    """A product of activations along other axes (neighbours) is no attention over these units."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 2)

        def forward(self, nodes, adjacency):
            return self.last((adjacency @ self.first(nodes)).relu())

    found = sc.neurons(Graph(), (torch.randn(2, 4, 5), torch.rand(2, 4, 4)))
    assert [layer.name for layer in found.layers] == ["first"]
