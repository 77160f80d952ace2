"""What was asked and what a network has reached, a line a measure; and why one does not hold.

In: amounts and measurements. Out: a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from secateur.groups import Groups
from secateur.groups.trainers import trainer_of
from secateur.measurement import format_measure
from secateur.surgery.plan import plan_of
from secateur.utils.forward import unwrapped


@dataclass(frozen=True)
class Line:
    """One measure of a budget: what was asked and what was reached, absolute.

    Seconds and bytes for latency and memory; `note` says where a figure is not measured here.
    `full` is NaN where nobody knows the full network.
    """

    measure: str
    asked: float
    reached: float
    full: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.reached <= self.asked


@dataclass(frozen=True)
class Reached:
    """Asked and reached, one `Line` a measure; prints as a table."""

    lines: tuple[Line, ...]
    reason: str = ""  # why a measure does not hold, as far as can be seen

    @property
    def holds(self) -> bool:
        """Whether every measure is within what was asked."""
        return all(line.holds for line in self.lines)

    @property
    def binding(self) -> str:
        """The measure that is nearest to what was asked: the one that decided."""
        return max(self.lines, key=lambda line: line.reached / line.asked).measure

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __getitem__(self, measure: str) -> Line:
        """The line of one measure; a KeyError where the budget has none."""
        return {line.measure: line for line in self.lines}[measure]

    def __str__(self) -> str:
        rows = [("", "full", "asked", "reached", "of asked")]
        rows += [
            (
                line.measure,
                *(format_measure(line.measure, n) for n in (line.full, line.asked, line.reached)),
                f"{line.reached / line.asked:.2%}",
            )
            for line in self.lines
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        binding = self.binding if len(self.lines) > 1 else None
        above = [line.measure for line in self.lines if not line.holds]
        table = [
            f"{row[0]:<{widths[0]}}  "
            + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
            + "  binds" * (row[0] == binding)
            + "  above" * (row[0] in above)
            + "".join(
                f"  {line.note}" for line in self.lines if line.note and line.measure == row[0]
            )
            for row in rows
        ]
        return "\n".join([*table, *([f"not met: {self.reason}"] if self.reason else [])])


def reason(above: Sequence[str], model: nn.Module, groups: Groups | None) -> str:
    """Why a network is above its budget in these measures, in a few words."""
    trainer = trainer_of(groups) or trainer_of(model=unwrapped(model))
    if trainer is not None and trainer.unchosen:
        return f"the groups have not been chosen yet, {trainer.unchosen}"
    plan = plan_of(model)
    if plan is None or not plan.groups:
        return "nothing was cut out of this network; shrink(model, groups) returns the small one"
    if list(above) == ["latency"]:
        return "a latency is measured anew each time; what else does this machine do?"
    kept, total = (sum(counts) for counts in zip(*plan.groups.values(), strict=True))
    return (
        f"{kept:,} of {total:,} groups stayed: cut before the choice (partial=True), to another "
        "budget, or with a lambda that is too small"
    )
