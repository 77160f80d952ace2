"""Networks whose time is worth a table."""

import torch
from torch import nn

import secateur as sc
from secateur.groups import Groups


def wide(inputs: int = 64, hidden: int = 256, rows: int = 64) -> Groups:
    """Two products that take hundreds of microseconds, so that noise is small beside them."""
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 512))
    return sc.neurons(model, torch.ones(rows, inputs))
