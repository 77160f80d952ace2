"""Networks that the tests of saving share with the processes that they start."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tied(nn.Module):
    """Everything that a file must carry: BatchNorm, a new bias, tied weights, two kinds of buffers.

    Dead channels of `conv` leave the constant of a sigmoid, for which `read` needs a new bias.
    """

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.gain = nn.Buffer(torch.full((6, 1, 1), 1.5), persistent=False)
        self.shift = nn.Buffer(torch.linspace(-1, 1, 6).reshape(6, 1, 1))
        self.read = nn.Linear(6, 8, bias=False)
        self.up, self.down = nn.Linear(8, 5), nn.Linear(8, 5)
        self.down.weight = self.up.weight
        self.head = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.norm(self.conv(x)) * self.gain).sigmoid() + self.shift
        x = self.read(x.mean((2, 3))).relu()
        return self.head(F.relu(self.up(x) + self.down(x)))
