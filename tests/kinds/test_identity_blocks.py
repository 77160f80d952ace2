"""Shells: what is left of a block whose branches are all dead, and why anything is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import secateur as sc
from cuts import counted, cut_out, predicted
from secateur.surgery.module_removal import Placeholder
from surgery.test_module_removal import Residual

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Blocks in a list, called by a function of the list."""

    def __init__(self, run, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.run = run
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self.blocks, x))


def one_by_one(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def without(model: nn.Module, *names: str) -> nn.Module:
    """The small model without the named groups; equal, and as small as predicted."""
    groups = sc.depth(model, X)
    dead = np.isin(list(groups.names), names)
    assert dead.sum() == len(names)
    removal, gap = cut_out(model, groups, dead)
    assert removal.refused == () and gap <= 1e-6
    assert predicted(groups, dead) == counted(removal.model, X)
    return removal.model


class PostNorm(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Pair(nn.Module):
    """Two branches that read one norm, and a parameter that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.unread = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.a(y) + self.b(y)


def test_a_block_that_norms_its_stream_stays_and_says_so():
    model = Chain(one_by_one, [PostNorm() for _ in range(3)])
    groups = sc.depth(model, X)
    assert groups.refused == (
        ("blocks.0 and 2 more", 3, "without its branches a block does more than pass on"),
    )
    small = without(model, "blocks.0.last")
    assert len(small.blocks) == 3 and isinstance(small.blocks[0].norm, nn.LayerNorm)


def test_what_branches_share_leaves_with_the_last_of_them():
    model = Chain(one_by_one, [Pair() for _ in range(3)])
    half = without(model, "blocks.1.a")
    assert isinstance(half.blocks[1].norm, nn.LayerNorm) and isinstance(
        half.blocks[1].a, Placeholder
    )
    assert len(without(model, "blocks.1.a", "blocks.1.b").blocks) == 2


def test_a_list_that_is_indexed_keeps_its_length():
    model = Chain(lambda blocks, x: blocks[2](blocks[1](blocks[0](x))), [Pair() for _ in range(3)])
    small = without(model, "blocks.1.a", "blocks.1.b")
    assert len(small.blocks) == 3 and isinstance(small.blocks[1], Placeholder)
    assert list(small.blocks[1].children()) == []


def test_a_block_whose_attributes_are_asked_for_stays_with_its_reason():
    def run(blocks, x):
        for number in range(3):
            x = blocks[number](x) * blocks[number].unread.sum().sign()
        return x

    model = Chain(run, [Pair() for _ in range(3)])
    groups = sc.depth(model, X)
    reasons = {name: why for name, _, why in groups.refused}
    assert reasons.keys() == {"blocks.0", "blocks.1", "blocks.2"}
    assert "'Placeholder' object has no attribute 'unread'" in reasons["blocks.1"]
    small = without(model, "blocks.1.a", "blocks.1.b")
    assert isinstance(small.blocks[1], Pair) and isinstance(small.blocks[1].norm, nn.LayerNorm)


def test_a_list_that_must_not_be_empty_keeps_one():
    def run(blocks, x):
        assert len(blocks) > 0
        return one_by_one(blocks, x)

    model = Chain(run, [Pair() for _ in range(3)])
    names = [f"blocks.{n}.{branch}" for n in range(3) for branch in "ab"]
    assert len(without(model, *names).blocks) == 1
    assert len(without(model, *names[:2]).blocks) == 2


def test_a_frozen_branch_keeps_its_block():
    model = Chain(one_by_one, [Pair() for _ in range(3)])
    model.blocks[0].a.requires_grad_(False)
    small = without(model, "blocks.0.b", "blocks.2.a", "blocks.2.b")
    assert len(small.blocks) == 2 and isinstance(small.blocks[0].a, nn.Linear)
