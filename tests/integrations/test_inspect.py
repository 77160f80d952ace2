"""`secateur inspect`, for every kind that the command line knows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from networks import ResNet, Transformer
from secateur.integrations.inspect import inspect
from secateur.integrations.options import KINDS, make_groups


class Mixture(nn.Module):
    """Three experts that a softmax weighs."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))

    def forward(self, x):
        shares = self.router(x).softmax(-1)
        return sum(shares[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


def normalised() -> nn.Module:
    """A stream of six channels under an RMSNorm."""
    return nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6), nn.Linear(6, 2))


EXAMPLES = {
    "experts": (Mixture, torch.ones(2, 6)),
    "heads": (Transformer, torch.ones(1, 5, 8)),
    "neurons": (Transformer, torch.ones(1, 5, 8)),
    "width": (normalised, torch.ones(2, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_looked_at(kind):
    network, example = EXAMPLES.get(kind, (ResNet, torch.ones(1, 3, 16, 16)))
    tables = inspect(network(), example, kind)
    assert tables[0].row_count == len(make_groups(network(), example, kind).layers) + 1


def test_kinds_without_structure_are_budgeted_by_count_only():
    tables = inspect(ResNet(), torch.ones(1, 3, 16, 16), "blocks")
    assert tables[1].row_count == 1


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown kind 'feathers'; known: filters, neurons"):
        make_groups(ResNet(), torch.ones(1, 3, 16, 16), "feathers")
