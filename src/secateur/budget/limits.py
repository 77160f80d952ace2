"""What can be asked of a model: the smallest and the largest network, in every measure.

In: groups. Out: a `Range` a measure; prints as a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.budget.allowance import Allowance
from secateur.budget.n_of_m import NMAllowance
from secateur.costs.measures import COUNTED, cost, full_costs
from secateur.costs.multiples import steps
from secateur.groups import Groups


@dataclass(frozen=True)
class Range:
    """The smallest and the largest that a shrunk network can be, absolute, and the full one."""

    measure: str
    smallest: int
    largest: int
    full: int


@dataclass(frozen=True)
class Reachable:
    """One `Range` a measure."""

    ranges: tuple[Range, ...]

    def __getitem__(self, measure: str) -> Range:
        return {line.measure: line for line in self.ranges}[measure]

    def __str__(self) -> str:
        width = max(len(line.measure) for line in self.ranges)
        lines = [f"{'':<{width}}  {'smallest':>24}  {'largest':>24}  {'full':>15}"]
        for line in self.ranges:
            least, most = (
                f"{number:,} ({number / line.full:.2%})" for number in (line.smallest, line.largest)
            )
            lines.append(f"{line.measure:<{width}}  {least:>24}  {most:>24}  {line.full:>15,}")
        return "\n".join(lines)


def reachable(groups: Groups, *, at_least: int = 1, multiple_of: int = 1) -> Reachable:
    """The range of budgets that a model can meet, before any training.

    Args:
        groups: the groups.
        at_least: how many groups stay in every layer.
        multiple_of: of which widths are multiples.

    Raises:
        ValueError: there are no groups.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2))
        >>> print(reachable(sc.neurons(model, torch.ones(1, 4))))
                                smallest                   largest             full
        groups                1 (16.67%)               6 (100.00%)                6
        flops                12 (16.67%)              72 (100.00%)               72
        params                9 (20.45%)              44 (100.00%)               44
        bytes                36 (20.45%)             176 (100.00%)              176
        memory               64 (28.57%)             224 (100.00%)              224
    """
    if not len(groups):
        raise ValueError("reachable: there are no groups; nothing can be cut")
    found = []
    for measure in COUNTED if groups.coupling is not None else ("groups",):
        costs = {measure: cost(groups, measure)}
        full = full_costs(groups, measure)
        units = steps(groups, multiple_of)
        allowance = Allowance(costs, {measure: float(full)}, groups.layers, at_least, units)
        blocks = NMAllowance(allowance, None, tuple(x for x in groups.layers if x.blocks))
        smallest, largest = (
            round(allowance.spent(blocks.patterned(kept).astype(np.float64))[measure])
            for kept in (allowance.cheapest(), allowance.most())
        )
        found.append(Range(measure, smallest, min(largest, full), full))
    return Reachable(tuple(found))
