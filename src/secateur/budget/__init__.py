"""What keeping a group costs, and how much may be kept."""

from secateur.budget.allowance import Allowance
from secateur.budget.blockwise import BlockwiseAllowance
from secateur.budget.budget import Budget, Line, Reached
from secateur.budget.costs import MEASURES, Cost, cost

__all__ = [
    "MEASURES",
    "Allowance",
    "BlockwiseAllowance",
    "Budget",
    "Cost",
    "Line",
    "Reached",
    "cost",
]
