"""Which parameters live and die together: `Groups`, the kinds, and the tracing of a model."""

from secateur.groups.coupling import Coupling
from secateur.groups.custom import custom
from secateur.groups.filters import filters
from secateur.groups.groups import Groups, Layer
from secateur.groups.members import Member
from secateur.groups.neurons import neurons
from secateur.groups.trace import Trace, trace

__all__ = [
    "Coupling",
    "Groups",
    "Layer",
    "Member",
    "Trace",
    "custom",
    "filters",
    "neurons",
    "trace",
]
