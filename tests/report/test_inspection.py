"""`secateur inspect`, for every kind that the command line knows."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from networks import ResNet, Transformer
from secateur.report.inspection import inspect
from secateur.train.spec import KINDS, make_groups


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
    model = network()
    groups = make_groups(model, example, kind)
    tables = inspect(model, example, groups)
    names, counts = (list(tables[0].columns[n].cells) for n in (0, 2))
    assert counts[-1] == f"{len(groups):,}"
    sizes = [math.prod(int(n.replace(",", "")) for n in c.split(" × ")) for c in counts[:-1] if c]
    assert sum(sizes) == len(groups)
    assert len([count for count in counts[:-1] if count]) == len(groups.rows()) <= len(names)


def looked_at(model: nn.Module, example: torch.Tensor, kind: str, ignore: list[str]) -> list[Any]:
    return inspect(model, example, make_groups(model, example, kind, ignore))


def written(*renderables: object) -> str:
    console = Console(width=100, file=io.StringIO())
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()


def test_blocks_are_a_tree_and_what_is_not_grouped_has_its_reason():
    text = written(*looked_at(ResNet(), torch.ones(1, 3, 16, 16), "filters", ["layer3"]))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "├─ conv1 filters 16 218 bn1" in lines
    assert "└─ conv2 filters 16 476 shortcut.0-1, bn2" in lines
    assert "├─ conv1 32 ignored ('layer3')" in lines


class Transformed(nn.Module):
    """An operator without a rule, and a part that the example does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.side = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(4, 3)
        self.spare = nn.ModuleList(nn.Linear(6, 2) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x).relu()) + torch.linalg.qr(self.side(x)).R.sum()


def test_unknown_operators_and_unreached_parameters_are_told():
    text = written(*looked_at(Transformed(), torch.ones(5, 4), "neurons", []))
    assert "rule, which protect whatever they touch: linalg_qr (1)" in " ".join(text.split())
    assert "never reaches: spare.0-2.weight, spare.0-2.bias" in text


def test_kinds_without_structure_are_budgeted_by_count_only():
    tables = looked_at(ResNet(), torch.ones(1, 3, 16, 16), "blocks", [])
    assert tables[1].row_count == 1


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown kind 'feathers'; known: filters, neurons"):
        make_groups(ResNet(), torch.ones(1, 3, 16, 16), "feathers")
