"""How hard the budget presses at each step.

In: the number of steps taken. Out: firm shrinkage's hardness in [0, 1] (`Homotopy`), or the convex
penalty's strength (`Constant`).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import ClassVar

FIRST = 2  # how many times as long the first of several stages is: it starts from scratch
ONSET = 0.55  # the share of a rise within which the hardness adds up to 1 (see `gentle`)


@dataclass(frozen=True)
class Homotopy:
    """Raise the hardness from 0 to 1 over the first part of training, then freeze.

        hardness(t) = (t / (freeze * steps)) ** power    for t < freeze * steps, and 1 from there on

    At hardness 1 the groups are chosen and stay chosen; the survivors train on to the end.
    With several stages (one a budget, see `Proximal`) each has such a rise of its own; the first
    is `FIRST` times as long as each of the others.

    Args:
        steps: optimizer steps in the whole run, all stages together.
        freeze: the share of the run after which the groups are chosen, in (0, 1].
        power: 1 is a straight line; the higher, the later the pressure is felt. None for the power
            that suits the number of steps, `gentle`.
        stages: how many networks the run yields, 1 or more.

    Raises:
        ValueError: a value out of its bounds.

    Example:
        >>> schedule = Homotopy(steps=1000, freeze=0.7, power=3)
        >>> schedule(0), round(schedule(350), 3), schedule(700)
        (0.0, 0.125, 1.0)
        >>> Homotopy(steps=1000, stages=3).ends
        (500, 750, 1000)

    Source: own; math.md, section 3.
    """

    steps: int
    freeze: float = 0.6
    power: float | None = None
    stages: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "stages"):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if not whole or value < 1:
                raise ValueError(f"Homotopy({name}={value!r}): an integer of 1 or more")
        if self.steps < self.stages + 1 and self.stages > 1:
            raise ValueError(f"Homotopy(steps={self.steps}): too few for {self.stages} stages")
        if not 0 < self.freeze <= 1:
            raise ValueError(f"Homotopy(freeze={self.freeze}): a share of the run in (0, 1]")
        if self.power is not None and not (math.isfinite(self.power) and self.power > 0):
            raise ValueError(f"Homotopy(power={self.power}): a number above 0")

    @property
    def ends(self) -> tuple[int, ...]:
        """The step at which each stage ends."""
        part = self.steps / (FIRST - 1 + self.stages)
        inner = (math.floor((FIRST + i) * part) for i in range(self.stages - 1))
        return (*inner, self.steps)

    def stage(self, step: int) -> int:
        """The stage, from 0, that step number `step` (from 1) belongs to."""
        return min(bisect_left(self.ends, step), self.stages - 1)

    @property
    def freeze_steps(self) -> tuple[int, ...]:
        """The number of steps after which the groups are chosen, for each stage."""
        spans = itertools.pairwise((0, *self.ends))
        return tuple(start + max(1, math.ceil(self.freeze * (end - start))) for start, end in spans)

    def __call__(self, step: int) -> float:
        """The hardness after `step` steps."""
        stage = self.stage(step)
        start = self.ends[stage - 1] if stage else 0
        rise = self.freeze_steps[stage] - start
        power = gentle(rise) if self.power is None else self.power
        return min(1.0, (step - start) / rise) ** power


@cache
def gentle(steps: int) -> float:
    """The power of a rise of so many steps at which groups have time to show what they are worth.

    At hardness r a weak group loses about the share r of its norm in every step, so that what it
    has lost in all goes by the sum of r over the steps: with one power for all, a run of ten times
    the steps would have chosen in an earlier part of it. This is the power p for which the sum is 1
    after the share `ONSET` of the rise, however many steps that is:

        steps * ONSET^(p + 1) / (p + 1) = 1    (at least 1: a straight line)

    Args:
        steps: of the rise, 1 or more.

    Example:
        >>> [round(gentle(steps), 1) for steps in (10, 100, 1_000, 100_000)]
        [1.4, 4.0, 7.1, 13.8]

    Source: own; docs/accuracy.md has what it gains.
    """
    whole, fall = 1.0, -math.log(ONSET)  # whole = p + 1; log(steps) = whole * fall + log(whole)
    for _ in range(20):  # Newton's method from below, on a concave function
        whole += (math.log(steps) - whole * fall - math.log(whole)) / (fall + 1 / whole)
    return max(1.0, whole - 1)


@dataclass(frozen=True)
class Constant:
    """The paper's schedule: one strength lambda for the convex penalty, at every step.

    Nothing is chosen at the end: how many groups are zero depends on lambda.

    Args:
        lam: lambda, 0 or more. No value suits all budgets: where only k of m groups may stay, each
            is shrunk about m / k times as hard, so try lambdas in proportion to k / m.

    Raises:
        ValueError: lambda is negative or not finite.

    Source: arXiv 2212.12921, algorithm 1.
    """

    lam: float

    def __post_init__(self) -> None:
        if not isinstance(self.lam, Real) or not (math.isfinite(self.lam) and self.lam >= 0):
            raise ValueError(f"Constant(lam={self.lam!r}): a finite number, 0 or more")

    ends: ClassVar[tuple[int, ...]] = (0,)  # there is one stage, and no end to it

    def stage(self, step: int) -> int:
        """0: there is one stage."""
        return 0

    def __call__(self, step: int) -> float:
        """Lambda, whatever the step."""
        return float(self.lam)
