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

import numpy as np

FIRST = 2  # how many times as long the first of several stages is: it starts from scratch
LATER = 2 / 3  # of `freeze`: when those after it choose, so that what is left has time to recover
SHARES = 1 / 8, 0.3  # of a network, that a tight and a mild budget keep
FREEZES = 0.6, 0.8  # `freeze` for them; along a line in between
WEARS = 4.0, 0.0  # and what the hardness adds up to before it closes
CLOSING = 0.76  # the share of a rise after which the closing power alone adds up to 1


@dataclass(frozen=True)
class Homotopy:
    """Raise the hardness from 0 to 1 over the first part of training, then freeze.

        hardness(t) = 1 - (1 - x^q) exp(-3 w x^2 / rise)    for x = t / rise < 1, 1 from there on
        rise = freeze * steps,    q = closing_power(rise)

    At hardness r a weak group loses about the share r of its norm in a step. The exponential wears
    groups down gradually; what it adds to the hardness sums to w, however long the run. The power
    x^q is felt in the last quarter of the rise, and brings those still at odds to a decision. At
    hardness 1 the groups are chosen and stay chosen; the survivors train on to the end.

    A tight budget is met early, so that the small network has time to learn, and by degrees; a mild
    one late, by a network that has learned which groups it can do without. By default `freeze` and
    w go by the share of the network that the budget keeps, along a line between these:

        share     1/8 and less    0.3 and more
        freeze    0.6             0.8
        w         4               0

    With several stages (one a budget, see `Proximal`) each has such a rise of its own. The first is
    `FIRST` times as long as each of the others, which start from a trained network and choose
    sooner, after `LATER` of the share.

    Args:
        steps: optimizer steps in the whole run, all stages together.
        freeze: the share of the run, or of the first stage, after which the groups are chosen, in
            (0, 1]; by default as suits the budget.
        power: for a plain power instead, hardness(t) = x^power: 1 is a straight line; the higher,
            the later the pressure is felt, and the longer the run, the earlier.
        stages: how many networks the run yields, 1 or more.
        share: how much of the network the (last) budget keeps, in [0, 1], by the measure that asks
            for the least. `Proximal` fills it in, as 0 where the groups are a few large parts of
            the network, such as its layers; without one, the budget counts as tight.

    Raises:
        ValueError: a value out of its bounds.

    Example:
        >>> schedule = Homotopy(steps=1000, freeze=0.7)
        >>> [round(schedule(step), 3) for step in (0, 350, 560, 690, 700)]
        [0.0, 0.004, 0.063, 0.83, 1.0]
        >>> Homotopy(steps=1000, freeze=0.7, power=3)(350)
        0.125
        >>> [Homotopy(steps=1000, share=share).freeze_steps for share in (0.05, 0.2, 0.5)]
        [(600,), (686,), (800,)]
        >>> Homotopy(steps=1000, stages=3).ends
        (500, 750, 1000)

    Source: own; docs/math.md, section 3, and docs/accuracy.md.
    """

    steps: int
    freeze: float | None = None
    power: float | None = None
    stages: int = 1
    share: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "stages"):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if not whole or value < 1:
                raise ValueError(f"Homotopy({name}={value!r}): an integer of 1 or more")
        if self.steps < self.stages + 1 and self.stages > 1:
            raise ValueError(f"Homotopy(steps={self.steps}): too few for {self.stages} stages")
        if self.freeze is not None and not 0 < self.freeze <= 1:
            raise ValueError(f"Homotopy(freeze={self.freeze}): a share of the run in (0, 1]")
        if self.power is not None and not (math.isfinite(self.power) and self.power > 0):
            raise ValueError(f"Homotopy(power={self.power}): a number above 0")
        if self.share is not None and not 0 <= self.share <= 1:
            raise ValueError(f"Homotopy(share={self.share}): a share of the network in [0, 1]")

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
        first = self._by_share(FREEZES) if self.freeze is None else self.freeze
        shares = itertools.chain((first,), itertools.repeat(LATER * first))
        return tuple(
            start + max(1, math.ceil(share * (end - start)))
            for share, (start, end) in zip(shares, spans, strict=False)
        )

    def __call__(self, step: int) -> float:
        """The hardness after `step` steps."""
        stage = self.stage(step)
        start = self.ends[stage - 1] if stage else 0
        rise = self.freeze_steps[stage] - start
        part = (step - start) / rise
        if part >= 1:
            return 1.0
        if self.power is not None:
            return part**self.power
        worn = -math.expm1(-3 * self._by_share(WEARS) * part**2 / rise)
        return worn + (1 - worn) * part ** closing_power(rise)

    def hardness(self, step: int) -> float:
        """The same."""
        return self(step)

    def _by_share(self, values: tuple[float, ...]) -> float:
        return float(np.interp(self.share or 0.0, SHARES, values))


@cache
def closing_power(steps: int) -> float:
    """The power q that closes a rise of so many steps.

    The sum of (t / steps)^q over t comes to 1 at the share `CLOSING` of the rise, however many
    steps that is; a fixed power would close a longer run earlier:

        steps * CLOSING^(q + 1) / (q + 1) = 1    (at least 1: a straight line)

    Args:
        steps: of the rise, 1 or more.

    Example:
        >>> [round(closing_power(steps), 1) for steps in (10, 100, 1_000, 100_000)]
        [2.7, 7.8, 14.2, 28.6]

    Source: own.
    """
    whole, fall = 1.0, -math.log(CLOSING)  # whole = q + 1; log(steps) = whole * fall + log(whole)
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

    def hardness(self, step: int) -> float:
        """0: nothing is ever chosen."""
        return 0.0
