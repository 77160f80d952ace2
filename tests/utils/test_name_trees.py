"""Layers as people read them: equal blocks once, what is tied by its short name, a tree."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from networks import LeNet, ResNet50, Transformer, images
from secateur.tracing.tracer import trace
from secateur.utils.name_trees import Row, folded, names, ranges, table, tied_to, tree


def short(*rows: Row) -> list[tuple[str, str]]:
    return [(row.name, row.count) for row in folded(rows)]


def test_blocks_of_blocks_fold_in_both_numbers():
    rows = [Row(f"stages.{i}.blocks.{j}.up", 8) for i in range(2) for j in range(3)]
    assert short(*rows) == [("stages.0-1.blocks.0-2.up", "8 × 6")]
    assert short(*rows[:-1]) == [("stages.0.blocks.0-2.up", "8 × 3"),
                                 ("stages.1.blocks.0-1.up", "8 × 2")]  # fmt: skip


def test_what_differs_is_told_apart():
    assert short(Row("l.0.a", 8), Row("l.1.a", 9), Row("l.2.a", 8)) == [
        ("l.0,2.a", "8 × 2"),
        ("l.1.a", "9"),
    ]
    assert len(short(Row("l.0.a", 8, ("why",)), Row("l.1.a", 8, ("because",)))) == 2
    assert short(Row("0", 8), Row("3", 8)) == [("0", "8"), ("3", "8")]  # no block, a layer each
    assert short(Row("l.0.a", 8), Row("l.0.a", 8)) == [("l.0.a", "8 × 2")]


def test_figures_add_up():
    (row,) = folded([Row("l.0.a", 4, (), (3, 100)), Row("l.1.a", 4, (), (4, 50))])
    assert row.figures == (7, 150) and row.times == 2


@pytest.mark.parametrize(
    ("numbers", "text"), [([3], "3"), ([2, 1, 0], "0-2"), ([0, 2, 4], "0,2,4"), ([9, 10], "9-10")]
)
def test_ranges(numbers, text):
    assert ranges(numbers) == text


def test_names_are_short_from_where_one_stands():
    assert tied_to("stages.3.conv1", ["stages.3.conv1.weight", "stages.3.bn1.weight"]) == "bn1"
    assert tied_to("l.0.self.q", ["l.0.self.k.weight", "l.0.norm.weight"]) == "k, norm"
    assert tied_to("stem.0", ["stem.1.weight", "stem.1.bias"]) == "stem.1"
    assert tied_to("up", ["up.weight", "gamma"]) == "gamma"
    assert tied_to("l.0.c", [f"l.{i}.c.weight" for i in range(9)]) == "l.1-8.c"
    computed = "a.parametrizations.weight.original0"
    assert tied_to("a", [computed, "b.weight"]) == "b"
    assert names(["a", "b", "c", "d", "e", "f"]) == "a, b, c, d and 2 more"


def test_one_name_may_have_two_rows():
    lines = tree([Row("a.b", 1), Row("a.b", 2), Row("a", 3)])
    assert [(label, row.size if row else None) for label, row in lines] == [
        ("a", 3), ("└─ b", 1), ("└─ b", 2),
    ]  # fmt: skip


def test_columns_line_up():
    lines = table([("x", "1,000", "words"), ("longer", "9", "")], right=(1,))
    assert lines == ["x       1,000  words", "longer      9"]


def test_the_trace_of_a_small_network():
    assert str(trace(LeNet(), images(1, 1, 28, 28))).splitlines() == [
        "3 coupled axes, 570 channels",
        "  conv1   20",
        "  conv2   50",
        "  fc1    500",
        "1 protected axis, 10 channels",
        "  fc2  10  reaches an output of the model",
    ]


def test_a_deep_network_prints_as_short_as_a_shallow_one():
    x = images(1, 3, 32, 32)
    deep, shallow = ResNet50(4, (3, 9, 9, 3)), ResNet50(4, (3, 3, 3, 3))
    texts = [str(trace(model, x)) for model in (deep, shallow)]
    assert len(texts[0].splitlines()) == len(texts[1].splitlines()) < 25
    assert "├─ 3-11" in texts[0] and "with shortcut.0-1, stages.4-11.conv3" in texts[0]
    summaries = [sc.filters(model, x).summary() for model in (deep, shallow)]
    assert len(summaries[0].splitlines()) == len(summaries[1].splitlines()) < 25
    assert "8 × 9     72" in summaries[0]


class Parallel(nn.Module):
    """Four networks side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Transformer() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([block(x) for block in self.blocks]).sum(0)


def test_summaries_say_what_is_alive_and_what_is_not_grouped():
    groups = sc.neurons(Parallel(), images(2, 5, 8))
    groups.scale_((torch.arange(len(groups)) >= 10).double())
    lines = groups.summary().splitlines()
    assert lines[2].split() == ["blocks.0-3.up", "neurons", "48", "×", "4", "182", "6,336"]
    assert lines[3].split() == ["total", "192", "182"]
    assert lines[4] == "not grouped:"
    assert any("blocks.0-3.embed (16 × 4): is mixed by" in line for line in lines)


def test_refusals_are_folded_too():
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(12)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = x + block(x)
            return x

    model = Blocks()
    with pytest.raises(ValueError, match="no removable neurons") as error:
        sc.neurons(model, images(2, 4))
    assert len(str(error.value).splitlines()) < 5
    with pytest.raises(ValueError, match="no weight whose weights") as error:
        sc.weights(model.requires_grad_(False))
    assert "blocks.0-11.0.weight (16 × 12): it is frozen" in str(error.value)
