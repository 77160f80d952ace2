"""From zeros to a smaller network, and how training goes on with it."""

from secateur.shrink.refit import refit
from secateur.shrink.shrink import ShrinkError, shrink

__all__ = ["ShrinkError", "refit", "shrink"]
