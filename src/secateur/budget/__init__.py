"""What keeping a group costs, and how much may be kept."""

from secateur.budget.allowance import Allowance
from secateur.budget.blockwise import BlockwiseAllowance
from secateur.budget.budget import Budget, Line, Reached
from secateur.budget.costs import MEASURES, Cost, cost
from secateur.budget.even import EvenAllowance
from secateur.budget.reachable import Range, Reachable, reachable

__all__ = [
    "MEASURES",
    "Allowance",
    "BlockwiseAllowance",
    "Budget",
    "Cost",
    "EvenAllowance",
    "Line",
    "Range",
    "Reachable",
    "Reached",
    "cost",
    "reachable",
]
