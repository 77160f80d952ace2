"""The kinds of groups: each function finds the groups of one kind in a model."""

from secateur.kinds.expert_lists import experts
from secateur.kinds.inputs import channels, shapes
from secateur.kinds.layer_depth import depth
from secateur.kinds.masks import blocks, n_of_m, weights
from secateur.kinds.outputs import filters, heads, neurons
from secateur.kinds.own_ids import custom
from secateur.kinds.stream_width import width

__all__ = [
    "blocks",
    "channels",
    "custom",
    "depth",
    "experts",
    "filters",
    "heads",
    "n_of_m",
    "neurons",
    "shapes",
    "weights",
    "width",
]
