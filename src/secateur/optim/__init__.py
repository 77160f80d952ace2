"""Proximal training: an ordinary optimizer that ends on a budget."""

from secateur.optim.chained import Chained
from secateur.optim.proximal import Proximal
from secateur.optim.schedules import Constant, Homotopy

__all__ = ["Chained", "Constant", "Homotopy", "Proximal"]
