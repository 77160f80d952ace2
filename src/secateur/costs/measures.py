"""What a budget may be of, and what a model costs by it: FLOPs, parameters, bytes and so on.

In: groups, and the name of a measure. Out: its `Cost`, and what the full network costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from secateur.costs.peak_memory import peak
from secateur.costs.terms import Cost, Term, present, state_terms
from secateur.groups import Coupling, Groups
from secateur.measurement import measure_peak_memory

MEASURES = ("groups", "flops", "params", "bytes", "memory", "latency")
COUNTED = MEASURES[:-1]  # without a clock: known as soon as the groups are


def cost(groups: Groups, measure: str) -> Cost:
    """The cost of a model in one measure, as a function of its groups' multipliers.

    Args:
        groups: the groups; traced, unless the measure is "groups".
        measure: "groups" (a count), "flops" (of one run on the example), "params", "bytes" or
            "memory" (the peak of one run on the example).

    Raises:
        ValueError: an unknown measure, or groups without a coupling.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2))
        >>> params = cost(sc.neurons(model, torch.ones(1, 4)), "params")
        >>> params(np.ones(6)), params(np.array([1, 1, 1, 0, 0, 0]))
        (44.0, 23.0)
    """
    if measure not in COUNTED:
        raise ValueError(f"unknown measure {measure!r}; known: {', '.join(COUNTED)}")
    if measure == "groups":
        return Cost.of([(1.0, (np.arange(len(groups)),))], len(groups))
    if groups.coupling is None or (measure == "memory" and groups.model is None):
        raise ValueError(
            f"a budget on {measure} needs groups that were traced through the model, such as "
            "filters; these leave zeros in place and can be budgeted by groups= only"
        )
    if measure == "memory":
        return peak(groups)
    return Cost.of(_terms(groups.coupling, measure), len(groups))


def full_costs(groups: Groups, measure: str) -> int:
    """What the full network costs in one measure, as it stands before anything is removed."""
    if measure == "groups" or groups.coupling is None:
        return len(groups)
    if measure == "flops":
        return sum(operation.flops for operation in groups.coupling.operations)
    if measure == "memory":
        assert groups.model is not None
        return measure_peak_memory(groups.model, groups.example)
    return sum(
        math.prod(slot.shape) * (slot.itemsize if measure == "bytes" else 1)
        for slot in groups.coupling.slots
        if measure == "bytes" or slot.is_parameter
    )


def all_full_costs(groups: Groups) -> dict[str, int]:
    """Measure -> what the full network costs, in all that its groups can tell without a clock."""
    traced = groups.coupling is not None and groups.model is not None
    return {m: full_costs(groups, m) for m in (COUNTED if traced else ("groups",))}


def _terms(coupling: Coupling, measure: str) -> Iterator[Term]:
    if measure != "flops":
        yield from state_terms(coupling, measure)
        return
    for operation in coupling.operations:
        cut = [entries for entries in operation.entries if (entries >= 0).any()]
        size = np.prod([len(entries) for entries in cut])
        yield from present(operation.flops / size, cut, operation.within)
