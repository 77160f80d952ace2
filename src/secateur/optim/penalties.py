"""What one proximal step does to the groups: a penalty is an object, whatever it is called.

In: the groups at one step, and how hard the schedule presses. Out: the factor that each group is
multiplied by, and how much of it is kept, from which the next step goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from secateur import envelope
from secateur.budget import AllowanceLike, UniformAllowance
from secateur.envelope.firm_operator import factors
from secateur.envelope.root import multipliers_by_segment, shares
from secateur.optim.importance import above_zero

# Until the groups are chosen, a group that firm shrinkage sets to zero is made this much smaller
# instead. Exactly zero behind a ReLU it would see no gradient, could never come back, and would
# leave a hole in the budget when a costlier group dies after it. One that has faded below this
# share of the largest norm is left alone: smaller still, its square would leave float32's range.
REVIVAL = 0.1
FADED = 1e-9


@dataclass(frozen=True, eq=False)
class Relaxation:
    """How much of each group is kept: multipliers u, (m,), and the threshold that gave them."""

    multipliers: np.ndarray
    threshold: float | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """What a penalty knows of the groups at one step.

    Attributes:
        allowance: the budget.
        norms: a, float64 of shape (m,).
        importance: d, (m,), above 0.
        last: of the step before; the costs c are those at its multipliers.
        geometry: h, a number or (m,), above 0.
    """

    allowance: AllowanceLike
    norms: np.ndarray
    importance: np.ndarray
    last: Relaxation
    geometry: float | np.ndarray = 1.0

    def saliency(self) -> np.ndarray:
        """s_j = a_j sqrt(d_j h_j / c_j): what a group is worth per unit of its cost now, (m,)."""
        costs = above_zero(self.allowance.slopes(self.last.multipliers))
        return self.norms * np.sqrt(self.importance * self.geometry / costs)


class Penalty:
    """What `Proximal` asks of a penalty; one of your own derives from it.

    Attributes:
        name: as in `Proximal(penalty=...)`; a state_dict is refused where another name trained.
        has_lambda: whether its strength is a lambda, of `Constant`, rather than a hardness, of
            `Homotopy`. It is then taken times the learning rate, of which there can be one only,
            and nothing is chosen in the end.

    Example:
        >>> class Ridge(Penalty):
        ...     name = "ridge"
        ...     def prox(self, problem, pull, length):
        ...         step = pull * length * problem.importance / problem.geometry
        ...         return 1 / (1 + step), problem.last
        >>> import secateur as sc
        >>> model = torch.nn.Linear(4, 1)
        >>> groups, sgd = sc.weights(model), torch.optim.SGD(model.parameters(), lr=0.1)
        >>> sc.Proximal(sgd, groups, sc.Budget(groups=2), penalty=Ridge(), lam=1.0).penalty.name
        'ridge'
    """

    name: ClassVar[str]
    has_lambda: ClassVar[bool] = True

    def prox(self, problem: Problem, pull: float, length: float) -> tuple[np.ndarray, Relaxation]:
        """The factors of a proximal step, (m,), in [0, 1], and how much of each group they keep.

        Args:
            problem: the groups.
            pull: lambda or the hardness, by the schedule.
            length: how many steps it stands for; with a lambda times the learning rate.
        """
        raise NotImplementedError

    def spare(self, factors: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """The factors that training goes on with, so that groups may return."""
        return factors


class Firm(Penalty):
    """Firm shrinkage whose threshold is such that the network's true cost equals the budget.

        factor_j = u_j / (r + (1 - r) u_j),    u_j = clip((s_j / T - r) / (1 - r), 0, 1)

    with the hardness r. In a geometry, s_j has d_j h_j for d_j.

    Source: own; docs/math.md, sections 3 and 5.
    """

    name = "firm"
    has_lambda = False

    def prox(self, problem: Problem, pull: float, length: float) -> tuple[np.ndarray, Relaxation]:
        if pull == 0:
            return np.ones_like(problem.norms), problem.last
        if length > 1:  # 1 - (1 - r) ** length: what a group that loses r a step has lost by now
            pull = -math.expm1(length * math.log1p(-pull))
        start = problem.last.threshold
        found = Relaxation(*problem.allowance.relax(problem.saliency(), pull, start=start))
        return factors(found.multipliers, pull), found

    def spare(self, factors: np.ndarray, norms: np.ndarray) -> np.ndarray:
        faded = norms < FADED * norms.max(initial=0)
        return np.where(factors < REVIVAL, np.where(faded, 1.0, REVIVAL), factors)


class Envelope(Penalty):
    """The paper's penalty S: its proximal operator, of lambda times the learning rate.

    The cost is made linear around the last multipliers, in the measure that is tightest there. With
    one level a layer it is the sum of one envelope a layer. In a geometry, norms are a_j sqrt(h_j)
    and weights d_j / h_j.

    Source: arXiv 2212.12921; `secateur.envelope.prox`.
    """

    name = "envelope"

    def prox(self, problem: Problem, pull: float, length: float) -> tuple[np.ndarray, Relaxation]:
        allowance, step = problem.allowance, pull * length
        norms = torch.from_numpy(problem.norms * np.sqrt(problem.geometry))
        weights = torch.from_numpy(problem.importance / problem.geometry)
        if isinstance(allowance, UniformAllowance):
            slope, offset = norms * weights.sqrt(), (step * weights).expand_as(norms)
            levels, bounds = torch.from_numpy(allowance.levels), torch.from_numpy(allowance.bounds)
            u, _ = multipliers_by_segment(slope, offset, levels, bounds)
            return shares(u, u + offset).numpy(), Relaxation(u.numpy())
        now = problem.last.multipliers
        spent = {m: cost / allowance.limits[m] for m, cost in allowance.spent(now).items()}
        tightest = max(spent, key=lambda measure: spent[measure])
        cost, limit = allowance.costs[tightest], allowance.limits[tightest]
        costs = cost.gradient(now)
        level = float(limit - cost(now) + costs @ now)
        options = {"step": step, "weights": weights, "costs": torch.from_numpy(above_zero(costs))}
        found = Relaxation(envelope.multipliers(norms, level, **options).numpy())
        return envelope.prox(norms, level, **options).numpy(), found


PENALTIES: dict[str, type[Penalty]] = {kind.name: kind for kind in (Firm, Envelope)}


def penalty_of(given: str | Penalty) -> Penalty:
    """The penalty that an argument of `Proximal` names, or is.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(given, Penalty):
        return given
    if given not in tuple(PENALTIES):
        names = " or ".join(map(repr, PENALTIES))
        raise ValueError(f"penalty={given!r}: expected {names}, or a Penalty of your own")
    return PENALTIES[given]()
