"""By which clock a latency budget goes: this machine's, or the table of another one.

In: a `LatencyTarget` and groups. Out: a `Clock`: the latency as a cost, and what a network takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from secateur.budget.target import LatencyTarget
from secateur.budget.trials import LatencyTrial
from secateur.costs.latency_table import LatencyTable, check_fits
from secateur.costs.table_cache import table_for
from secateur.costs.terms import Cost
from secateur.groups import Groups
from secateur.measurement.host import machine, machine_differences
from secateur.runtimes import check_runtime
from secateur.surgery.plan import plan_of


@dataclass(frozen=True, eq=False)
class Clock:
    """What a latency budget is counted by.

    Attributes:
        table: the latency of each layer by its widths.
        cost: the same as a function of the groups' multipliers, in seconds.
        trial: measures a network on this machine.
        measured: whether that decides; else the table does.
    """

    table: LatencyTable
    cost: Cost
    trial: LatencyTrial
    measured: bool

    def seconds(self, network: nn.Module) -> tuple[float, float, str]:
        """What a network takes, what the full one does, and whose figures these are if not ours."""
        if self.measured:
            return *self.trial.timer()(network), ""
        kept = kept_in(network, self.trial.groups)
        facts = self.table.machine
        where = facts.get("accelerator") or facts.get("processor", "another machine")
        return self.cost(kept.astype(float)), self.table.full, f"by the table of {where}"


def clock_for(target: LatencyTarget, groups: Groups, multiple_of: int) -> Clock:
    """The clock that a target asks for; its table is measured now where there is none.

    Raises:
        ValueError: the table is damaged, of another network, runtime or number of threads; or of
            another machine, where the small network was to be measured on this one.
    """
    if target.table is None:
        runtime = target.runtime or "torch"
        if target.measured is False:
            raise ValueError(
                "LatencyTarget(measured=False) goes by a table alone; say which, table=FILE"
            )
        table = table_for(groups, runtime=runtime, threads=target.threads, multiple_of=multiple_of)
    else:
        table = LatencyTable.load(target.table)
        _refuse_other_settings(table, target)
        check_fits(table, groups)
    measured = table.is_from_here if target.measured is None else target.measured
    if measured:
        if apart := machine_differences(table.machine, machine()):
            raise ValueError(
                f"LatencyTarget(measured=True): the table {target.table} is of another machine "
                "(table / here):\n  " + "\n  ".join(apart) + "\nleave measured= out to go by "
                "the table alone, or table= to measure one here"
            )
        check_runtime(table.runtime)
    trial = LatencyTrial(groups, target, table.runtime, table.threads, table.full)
    return Clock(table, table.cost(groups), trial, measured)


def _refuse_other_settings(table: LatencyTable, target: LatencyTarget) -> None:
    asked = replace(
        target, runtime=target.runtime or table.runtime, threads=target.threads or table.threads
    )
    for name in ("runtime", "threads"):
        if getattr(asked, name) != getattr(table, name):
            raise ValueError(
                f"the latency table {target.table} is for {name}={getattr(table, name)!r}, not "
                f"{getattr(asked, name)!r}"
            )


def kept_in(network: nn.Module, groups: Groups) -> np.ndarray:
    """Which groups a network still has, bool of shape (m,), by the plan that it was cut by."""
    plan = plan_of(network)
    if plan is None or groups.coupling is None:
        return groups.on(network).alive().cpu().numpy()
    kept = np.ones(len(groups), bool)
    for slot in groups.coupling.slots:
        for dim, entries in enumerate(slot.entries):
            indices = plan.kept.get(slot.names[0], {}).get(dim)
            if entries is not None and indices is not None:
                gone = np.delete(entries, list(indices))
                kept[gone[gone >= 0]] = False
    for gone in groups.coupling.absent:
        if gone.module in plan.absent:
            kept[list(gone.groups)] = False
    return kept
