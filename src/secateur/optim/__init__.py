"""Proximal training: an ordinary optimizer that ends on a budget, and others to compare it with."""

from secateur.optim.chained import Chained
from secateur.optim.hspg import HSPG
from secateur.optim.proximal import Proximal
from secateur.optim.schedules import Constant, Homotopy
from secateur.optim.svrg import SVRG, ProxSVRG

__all__ = ["HSPG", "SVRG", "Chained", "Constant", "Homotopy", "ProxSVRG", "Proximal"]
