"""From zeros to a smaller network, and how training goes on with it."""

from secateur.shrinking.optimizer_refit import refit
from secateur.shrinking.recalibration import recalibrate
from secateur.shrinking.small_network import ShrinkError, shrink

__all__ = ["ShrinkError", "recalibrate", "refit", "shrink"]
