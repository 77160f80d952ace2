"""secateur: networks that end, after one training run, at the size the hardware can afford."""

from secateur import envelope, groups
from secateur.budget import Budget
from secateur.deploy import export, load, save
from secateur.groups import (
    Groups,
    blocks,
    channels,
    custom,
    experts,
    filters,
    heads,
    layers,
    n_of_m,
    neurons,
    shapes,
    weights,
    width,
)
from secateur.measure import Footprint, measure
from secateur.optim import Constant, Homotopy, Proximal
from secateur.shrink import ShrinkError, shrink

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Constant",
    "Footprint",
    "Groups",
    "Homotopy",
    "Proximal",
    "ShrinkError",
    "blocks",
    "channels",
    "custom",
    "envelope",
    "experts",
    "export",
    "filters",
    "groups",
    "heads",
    "layers",
    "load",
    "measure",
    "n_of_m",
    "neurons",
    "save",
    "shapes",
    "shrink",
    "weights",
    "width",
]
