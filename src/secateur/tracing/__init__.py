"""A model in, its coupled axes out: labels ride along one run of it."""

from secateur.tracing.axes import Axis, Trace
from secateur.tracing.tracer import trace

__all__ = ["Axis", "Trace", "trace"]
