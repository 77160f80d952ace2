"""How hard the budget presses at each step.

In: the number of steps taken. Out: firm shrinkage's hardness in [0, 1] (`Homotopy`), or the convex
penalty's strength (`Constant`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real


@dataclass(frozen=True)
class Homotopy:
    """Raise the hardness from 0 to 1 over the first part of training, then freeze.

        hardness(t) = (t / (freeze * steps)) ** power    for t < freeze * steps, and 1 from there on

    At hardness 1 the groups are chosen and stay chosen; the survivors train on to the end.

    Args:
        steps: optimizer steps in the whole run.
        freeze: the share of the run after which the groups are chosen, in (0, 1].
        power: above 1, the pressure starts gently; 1 is a straight line.

    Raises:
        ValueError: a value out of its bounds.

    Example:
        >>> schedule = Homotopy(steps=1000)
        >>> schedule(0), round(schedule(350), 3), schedule(700)
        (0.0, 0.125, 1.0)

    Source: own; math.md, section 3.
    """

    steps: int
    freeze: float = 0.7
    power: float = 3.0

    def __post_init__(self) -> None:
        whole = isinstance(self.steps, Integral) and not isinstance(self.steps, bool)
        if not whole or self.steps < 1:
            raise ValueError(f"Homotopy(steps={self.steps!r}): an integer of 1 or more")
        if not 0 < self.freeze <= 1:
            raise ValueError(f"Homotopy(freeze={self.freeze}): a share of the run in (0, 1]")
        if not (math.isfinite(self.power) and self.power > 0):
            raise ValueError(f"Homotopy(power={self.power}): a number above 0")

    @property
    def freeze_step(self) -> int:
        """The number of steps after which the groups are chosen."""
        return max(1, math.ceil(self.freeze * self.steps))

    def __call__(self, step: int) -> float:
        """The hardness after `step` steps."""
        return min(1.0, step / self.freeze_step) ** self.power


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

    def __call__(self, step: int) -> float:
        """Lambda, whatever the step."""
        return float(self.lam)
