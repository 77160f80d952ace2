"""Which parameters live and die together: `Groups`, the kinds, and the tracing of a model."""

from secateur.groups.blocks import blocks
from secateur.groups.channels import channels
from secateur.groups.coupling import Coupling
from secateur.groups.custom import custom
from secateur.groups.experts import experts
from secateur.groups.filters import filters
from secateur.groups.groups import Groups
from secateur.groups.heads import heads
from secateur.groups.layer import Layer
from secateur.groups.layers import layers
from secateur.groups.members import Member
from secateur.groups.n_of_m import n_of_m
from secateur.groups.neurons import neurons
from secateur.groups.shapes import shapes
from secateur.groups.trace import Trace, trace
from secateur.groups.weights import weights
from secateur.groups.width import width

__all__ = [
    "Coupling",
    "Groups",
    "Layer",
    "Member",
    "Trace",
    "blocks",
    "channels",
    "custom",
    "experts",
    "filters",
    "heads",
    "layers",
    "n_of_m",
    "neurons",
    "shapes",
    "trace",
    "weights",
    "width",
]
