"""The parameters of networks that people train, by their shapes alone, and groups of them.

In: a share of the width. Out: a module that holds the parameters, and its groups: filters with
their BatchNorms, FFN neurons, attention heads. Nothing is downloaded and nothing runs forward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import secateur as sc


class Shapes(nn.ParameterList):
    """Parameters, each with the group of every position along one of its dimensions, or without."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: dict[str, Tensor] = {}
        self.used = 0

    def add(self, *shape: int, ids: Tensor | None = None, dim: int = 0) -> None:
        if ids is not None:
            sizes = [1] * len(shape)
            sizes[dim] = -1
            self.ids[str(len(self))] = ids.reshape(sizes)
        self.append(nn.Parameter(0.05 * torch.randn(shape)))

    def groups_of(self, length: int, count: int | None = None) -> Tensor:
        """New ids for so many positions, in so many groups of equal size."""
        ids = self.used + torch.arange(length) // (length // (count or length))
        self.used = int(ids[-1]) + 1
        return ids


def resnet50(share: float) -> Shapes:
    """ResNet-50: the filters of every convolution, with the scale and shift behind them."""
    found, narrow = Shapes(), int(64 * share)

    def convolution(out: int, into: int, size: int) -> None:
        ids = found.groups_of(out)
        found.add(out, into, size, size, ids=ids)
        found.add(out, ids=ids)
        found.add(out, ids=ids)

    convolution(narrow, 3, 7)
    into = narrow
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = narrow * 2**stage
        for block in range(blocks):
            convolution(width, into, 1)
            convolution(width, width, 3)
            convolution(4 * width, width, 1)
            if block == 0:
                convolution(4 * width, into, 1)
            into = 4 * width
    found.add(1000, into)
    found.add(1000)
    return found


def bert(share: float) -> Shapes:
    """BERT-base: 12 layers, heads with their queries, keys and values, and FFN neurons."""
    found, width = Shapes(), int(768 * share)
    for rows in (int(30522 * share), 512, 2):
        found.add(rows, width)
    for _ in range(2):  # a LayerNorm
        found.add(width)
    for _ in range(12):
        heads, neurons = found.groups_of(width, 12), found.groups_of(4 * width)
        for _ in range(3):
            found.add(width, width, ids=heads)
            found.add(width, ids=heads)
        found.add(width, width)
        found.add(4 * width, width, ids=neurons)
        found.add(4 * width, ids=neurons)
        found.add(width, 4 * width)
        for _ in range(6):  # biases and two LayerNorms
            found.add(width)
    return found


def gpt2(share: float) -> Shapes:
    """GPT-2 small: FFN neurons, whose weights lie in columns."""
    found, width = Shapes(), int(768 * share)
    found.add(int(50257 * share), width)
    found.add(1024, width)
    for _ in range(12):
        neurons = found.groups_of(4 * width)
        found.add(width, 3 * width)
        found.add(3 * width)
        found.add(width, width)
        found.add(width, 4 * width, ids=neurons, dim=1)
        found.add(4 * width, ids=neurons)
        found.add(4 * width, width)
        for _ in range(6):
            found.add(width)
    for _ in range(2):
        found.add(width)
    return found


NETWORKS: dict[str, Callable[[float], Shapes]] = {
    "ResNet-50": resnet50,
    "BERT-base": bert,
    "GPT-2 small": gpt2,
}


def groups(found: Shapes) -> sc.Groups:
    """The groups of all parameters that have ids."""
    return sc.custom(found, found.ids)
