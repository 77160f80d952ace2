"""What keeping a group costs, and how much may be kept."""

from secateur.budget.allowance import Allowance
from secateur.budget.blockwise import BlockwiseAllowance
from secateur.budget.budget import Budget, Line, Reached
from secateur.budget.costs import Cost
from secateur.budget.even import EvenAllowance
from secateur.budget.measures import MEASURES, cost
from secateur.budget.profiling import profile
from secateur.budget.reachable import Range, Reachable, reachable
from secateur.budget.table import LatencyTable
from secateur.budget.target import Target

__all__ = [
    "MEASURES",
    "Allowance",
    "BlockwiseAllowance",
    "Budget",
    "Cost",
    "EvenAllowance",
    "LatencyTable",
    "Line",
    "Range",
    "Reachable",
    "Reached",
    "Target",
    "cost",
    "profile",
    "reachable",
]
