"""A model in, its coupled axes out: labels ride along one run of it."""

from secateur.tracing.axes import Axis, Trace
from secateur.tracing.tracer import trace
from secateur.utils.forward import method

__all__ = ["Axis", "Trace", "method", "trace"]
