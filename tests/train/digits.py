"""A user's module for sweeps: a small network on scikit-learn's digits."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_data(batch_size: int = 64) -> tuple[DataLoader, DataLoader]:
    found = load_digits()
    images = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    digits = TensorDataset(images, torch.from_numpy(found.target).long())
    train, test = torch.utils.data.random_split(
        digits, [1297, 500], generator=torch.Generator().manual_seed(0)
    )
    return DataLoader(train, batch_size, shuffle=True), DataLoader(test, 500)


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
