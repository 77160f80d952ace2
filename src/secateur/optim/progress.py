"""Where a run stands: what of it can be watched, saved and resumed.

In: the budgets, the schedule and the steps taken. Out: how much of each group is kept, how far the
choice is, and the part of a state_dict that is ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.budget import AllowanceLike, Budget
from secateur.groups import Groups
from secateur.optim.chained import parts_of
from secateur.optim.importance import Importance
from secateur.optim.penalties import Penalty, Relaxation
from secateur.optim.schedules import Constant, Homotopy
from secateur.optim.state import Wrapper
from secateur.optim.statistics import RunningStatistics
from secateur.optim.support import Support


class Progress(Wrapper):
    """A `Wrapper` that trains groups to budgets; who derives from it takes the steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        groups: Groups,
        budgets: tuple[Budget, ...],
        allowances: tuple[AllowanceLike, ...],
        schedule: Homotopy | Constant,
        penalty: Penalty,
        importance: Importance,
        statistics: RunningStatistics,
    ) -> None:
        super().__init__(optimizer, groups)
        self.budgets, self._allowances, self.allowance = budgets, allowances, allowances[0]
        self.schedule, self.penalty, self.importance = schedule, penalty, importance
        self.statistics = statistics
        self.steps_taken = 0
        self.frozen = False
        self._gradient_seen = False  # of a group, on this process; else nothing is known
        self._relaxation = Relaxation(np.ones(len(groups)))
        self._support: Support | None = None

    # -- what can be watched -----------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """How many groups the last proximal step kept, wholly or in part (the others fade)."""
        return int((self._relaxation.multipliers > 0).sum())

    @property
    def multipliers(self) -> Tensor:
        """How much of each group the last proximal step kept: u in [0, 1], float64 of shape (m,).

        Once frozen, 1 for what stays and 0 for what is dead. A copy.
        """
        return torch.from_numpy(self._relaxation.multipliers.copy())

    @property
    def hardness(self) -> float:
        """How far the homotopy is, 0 to 1 (without a `Homotopy`: 1 once frozen, else 0)."""
        return 1.0 if self.frozen else self.schedule.hardness(self.steps_taken)

    @property
    def threshold(self) -> float | None:
        """The T of the last proximal step (with per_layer: the share kept of every layer).

        None before the first one, once frozen, and for other penalties than the firm one.
        """
        return self._relaxation.threshold

    @property
    def stage(self) -> int:
        """Which of the budgets is being trained to, or was last, from 0."""
        return self.schedule.stage(max(self.steps_taken, 1))

    @property
    def budget(self) -> Budget:
        """The budget of this stage."""
        return self.budgets[self.stage]

    @property
    def settled(self) -> bool:
        """Whether the last step was the last one of its stage: the network can be shrunk now."""
        return self.frozen and self.steps_taken in self.schedule.ends

    @property
    def done(self) -> bool:
        """Whether all steps were taken, and the groups of the last stage are chosen."""
        return self.frozen and self.steps_taken >= self.schedule.ends[-1] > 0

    @property
    def unchosen(self) -> str:
        """Why the groups to keep are not chosen, such as "step 80 of 1000"; "" once they are.

        With a penalty that has a lambda none ever are: "" there, too, once a gradient was seen.
        """
        if self.frozen or (self.penalty.has_lambda and self._gradient_seen):
            return ""
        if self.penalty.has_lambda:
            return f"{self.steps_taken} steps of its own, and no gradient"
        return f"step {self.steps_taken} of {self.schedule.ends[-1]}"

    @property
    def spent(self) -> dict[str, float]:
        """What the network costs now, by the budget's own measures."""
        return self.allowance.spent(self._relaxation.multipliers)

    def fits(self, kept: np.ndarray) -> bool:
        """Whether a network of these groups, bool of shape (m,), is within one of the budgets."""
        return any(
            all(
                cost <= allowance.limits[m]
                for m, cost in allowance.spent(kept.astype(float)).items()
            )
            for allowance in self._allowances
        )

    # -- its own part of a state_dict --------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            "optimizer": " + ".join(type(part).__name__ for part in parts_of(self.optimizer)),
            "layers": [[layer.name, layer.kind, len(layer)] for layer in self.groups.layers],
            "penalty": self.penalty.name,
            "budgets": [str(budget) for budget in self.budgets],
            "schedule": str(_given(self.schedule)),
            "importance": type(self.importance).__name__,
        }

    def _own_state(self) -> dict[str, Any]:
        live = np.ones(len(self.groups), bool) if self._support is None else self._support.kept
        return {
            "steps_taken": self.steps_taken,
            "multipliers": self.multipliers,
            "threshold": self.threshold,
            "frozen": self.frozen,
            "gradient_seen": self._gradient_seen,
            "live": torch.from_numpy(live.copy()),  # what was not given up for good
            "learned": self.importance.state_dict(),
            "statistics": self.statistics.state_dict(),
        }

    def _completed(self, ours: dict[str, Any]) -> dict[str, Any]:
        """An older entry counted the budgets, and said nothing of the schedule."""
        if not isinstance(ours.get("budgets"), int):
            return ours
        mine = self._identity()
        seen = bool(ours.get("steps_taken"))
        ours = {"schedule": mine["schedule"], "gradient_seen": seen, **ours}
        same = ours["budgets"] == len(self.budgets)
        return {**ours, "budgets": mine["budgets"]} if same else ours

    def _resume(self, ours: dict[str, Any]) -> None:
        self.importance.load_state_dict(ours["learned"])
        self.statistics.load_state_dict(ours["statistics"])
        self.steps_taken = int(ours["steps_taken"])
        multipliers = ours["multipliers"].cpu().double().numpy().copy()
        self._relaxation = Relaxation(multipliers, ours["threshold"])
        self.frozen, self._gradient_seen = ours["frozen"], ours["gradient_seen"]
        live = ours["live"].cpu().numpy()
        self._support = None if live.all() else Support(self.groups, live)
        allowance = self._allowances[self.stage]
        competing = not (self.frozen or live.all())
        self.allowance = allowance.restricted(live) if competing else allowance


def _given(schedule: Homotopy | Constant) -> Homotopy | Constant:
    """What a schedule was asked to be: its share follows from the budget, and may be measured."""
    return replace(schedule, share=None) if isinstance(schedule, Homotopy) else schedule
