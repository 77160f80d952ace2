"""Proximal training: an ordinary optimizer that ends on a budget, and others to compare it with."""

from secateur.optim.hspg import HSPG
from secateur.optim.proximal import Proximal
from secateur.optim.schedules import Constant, Homotopy
from secateur.optim.svrg import SVRG, ProxSVRG

__all__ = ["HSPG", "SVRG", "Constant", "Homotopy", "ProxSVRG", "Proximal"]
