"""A user's module: a small network with batch statistics and dropout, and data that is random in
every way a user's can be."""

import random

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    """Images of two classes, augmented from the generators of torch, numpy and python.

    With a strength of 0 these are drawn from as well, and the images are the same every time.
    """

    def __init__(self, rows: int, strength: float = 0.1) -> None:
        self.strength = strength
        generator = torch.Generator().manual_seed(1)
        self.labels = torch.arange(rows) % 2
        self.images = torch.randn(rows, 1, 6, 6, generator=generator)
        self.images += self.labels.view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(1).item() + np.random.rand() + random.random()  # noqa: NPY002
        return self.images[index] + self.strength * noise, self.labels[index]


def make_data(batch_size: int = 8) -> tuple[DataLoader, DataLoader]:
    return DataLoader(Noisy(96), batch_size, shuffle=True), DataLoader(Noisy(32, strength=0.0), 16)


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 2),
    )


def fails() -> None:
    raise KeyError("weights.pt")


def not_a_model() -> int:
    return 3
