"""`secateur inspect`, for every kind that the command line knows."""

from __future__ import annotations

import pytest
import torch

from networks import ResNet, Transformer
from secateur.integrations.inspect import inspect
from secateur.integrations.options import KINDS, make_groups

EXAMPLES = {
    "heads": (Transformer, torch.ones(1, 5, 8)),
    "neurons": (Transformer, torch.ones(1, 5, 8)),
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
