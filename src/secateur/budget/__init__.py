"""How much may be kept, and which groups then stay."""

from secateur.budget.allowance import Allowance, AllowanceLike
from secateur.budget.budget import Budget
from secateur.budget.limits import Range, Reachable, reachable
from secateur.budget.n_of_m import NMAllowance
from secateur.budget.reached import Line, Reached
from secateur.budget.target import LatencyTarget
from secateur.budget.uniform import UniformAllowance

__all__ = [
    "Allowance",
    "AllowanceLike",
    "Budget",
    "LatencyTarget",
    "Line",
    "NMAllowance",
    "Range",
    "Reachable",
    "Reached",
    "UniformAllowance",
    "reachable",
]
