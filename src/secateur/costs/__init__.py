"""What a network costs as a function of what is kept of it."""

from secateur.costs.latency_table import LatencyTable
from secateur.costs.measures import MEASURES, cost
from secateur.costs.terms import Cost
from secateur.costs.timing import profile

__all__ = ["MEASURES", "Cost", "LatencyTable", "cost", "profile"]
