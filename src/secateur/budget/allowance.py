"""From a budget to what is kept: the threshold that the true, nonlinear cost determines.

In: the groups' saliencies and a hardness. Out: a multiplier per group whose cost meets every limit;
at hardness 1, a set of groups. (docs/math.md, section 5.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
import torch

from secateur.budget.search import MET, Looked, crossing
from secateur.budget.trials import Trial, choose_by_trial
from secateur.costs.multiples import Units, least, ordered
from secateur.costs.terms import Cost
from secateur.envelope.firm_operator import multipliers_at
from secateur.envelope.root import root
from secateur.groups import Layer

ROUNDING = 1e-13  # relative: costs and limits are whole numbers, the sums of products are not


class AllowanceLike(Protocol):
    """What training asks of a budget in the units of one model, whatever kind of budget it is."""

    @property
    def costs(self) -> Mapping[str, Cost]: ...
    @property
    def limits(self) -> Mapping[str, float]: ...
    @property
    def share(self) -> float: ...
    def restricted(self, live: np.ndarray) -> AllowanceLike: ...
    def spent(self, multipliers: np.ndarray) -> dict[str, float]: ...
    def slopes(self, multipliers: np.ndarray) -> np.ndarray: ...
    def relax(
        self, saliency: np.ndarray, hardness: float, *, start: float | None = None
    ) -> tuple[np.ndarray, float]: ...
    def choose(self, saliency: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Allowance:
    """A budget in the units of one model: limits on its costs.

    Attributes:
        costs: measure -> cost.
        limits: measure -> the most that may be spent, absolute.
        layers: the ranges of groups in which `at_least` groups stay (or all, of a smaller one).
        at_least: how many groups stay in each layer.
        steps: how many groups of each layer are chosen at a time (multiples.py); () for one by one.
        live: the groups that may stay, bool of shape (m,); None for all.
        trials: measure -> what decides in the place of its cost when groups are chosen for good.

    Example:
        >>> two_layers = (Layer("a", "neurons", 0, 2), Layer("b", "neurons", 2, 4))
        >>> product = Cost.of([(1.0, (np.array([0, 1]), np.array([2, 3])))], 4)  # width times width
        >>> allowance = Allowance({"params": product}, {"params": 2.0}, two_layers, at_least=1)
        >>> allowance.choose(np.array([4.0, 1.0, 3.0, 2.0]))
        array([ True, False,  True,  True])
    """

    costs: Mapping[str, Cost]
    limits: Mapping[str, float]
    layers: tuple[Layer, ...]
    at_least: int
    steps: tuple[int, ...] = ()
    live: np.ndarray | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)

    even: ClassVar[bool] = False  # whether all layers keep the same share (uniform.py)

    def __post_init__(self) -> None:
        if not self.steps:
            object.__setattr__(self, "steps", (1,) * len(self.layers))

    def restricted(self, live: np.ndarray) -> Allowance:
        """The same budget where only some groups, bool of shape (m,), may stay."""
        return replace(self, live=live)

    def limited(self, limits: Mapping[str, float]) -> Allowance:
        """The same with other limits, by its costs alone."""
        return replace(self, limits=limits, trials={})

    def spent(self, multipliers: np.ndarray) -> dict[str, float]:
        """What `multipliers`, shape (m,), cost in each measure."""
        return {measure: cost(multipliers) for measure, cost in self.costs.items()}

    @property
    def share(self) -> float:
        """How much of the network may stay, by the measure that asks for the least."""
        return min(1.0, 1 / (1 + self.excess(np.ones(self.layers[-1].stop))))

    def excess(self, multipliers: np.ndarray) -> float:
        """How far the worst measure lies above its limit, relative to the limit."""
        return max(cost(multipliers) / self.limits[m] for m, cost in self.costs.items()) - 1

    def looked(self, multipliers: np.ndarray, moving: np.ndarray) -> Looked:
        """The excess, and how fast it rises where the multipliers move by `moving`, (m,)."""
        shares = {m: cost(multipliers) / self.limits[m] for m, cost in self.costs.items()}
        worst = max(shares, key=lambda measure: shares[measure])
        cost, limit = self.costs[worst], self.limits[worst]
        return shares[worst] - 1, lambda: float((cost.gradient(multipliers) * moving).sum()) / limit

    def fits(self, multipliers: np.ndarray) -> bool:
        """Whether every limit holds."""
        return self.excess(multipliers) <= ROUNDING

    def slopes(self, multipliers: np.ndarray) -> np.ndarray:
        """The cost of each group at `multipliers`: its shares of the limits, added up, (m,)."""
        total = np.zeros(len(multipliers))
        for measure, cost in self.costs.items():
            total += cost.gradient(multipliers) / self.limits[measure]
        return total

    # -- while the hardness is below 1 -------------------------------------------------------------

    def relax(
        self, saliency: np.ndarray, hardness: float, *, start: float | None = None
    ) -> tuple[np.ndarray, float]:
        """Give the multipliers of firm shrinkage that spend exactly what is allowed.

            u_j = clip((saliency_j / T - hardness) / (1 - hardness), 0, 1)

        with the smallest threshold T at which every limit holds. The floor has u = 1.

        Args:
            saliency: a_j sqrt(d_j / c_j), float64 of shape (m,), finite, 0 or more.
            hardness: in (0, 1).
            start: a threshold near the root, such as the last step's; changes only the time.

        Returns:
            (u, T): u of shape (m,); T is 0 where the non-zero groups already fit.

        Raises:
            ValueError: the saliency holds NaN or inf.
        """
        refuse_bad(saliency)
        floor = self.floor(saliency)
        pressed = np.where(floor, np.inf, saliency)
        whole = (pressed > 0).astype(float)
        if self.fits(whole):
            return whole, 0.0
        free = saliency[~floor & (saliency > 0)]
        steep, offset = pressed / (1 - hardness), hardness / (1 - hardness)
        low, high = hardness / free.max(), 1 / free.min()  # of 1 / T: all but the floor 0, all 1
        guess = 1 / start if start else 0.0

        def look(x: float) -> Looked:
            line = steep * x - offset
            moving = np.where((line > 0) & (line < 1), steep, 0)
            return self.looked(np.minimum(np.maximum(line, 0), 1), moving)

        if all(cost.linear for cost in self.costs.values()):
            inverse = max(self._linear_root(steep, offset, floor, high, guess), low)
        else:
            inverse = crossing(look, low, high, guess)
        return multipliers_at(pressed, 1 / inverse, hardness), 1 / inverse

    def _linear_root(
        self, steep: np.ndarray, offset: float, floor: np.ndarray, x: float, guess: float
    ) -> float:
        """The same without a search where costs are sums over groups, or the largest of such sums.

        From x on downwards, each sum that is above its limit is solved for by the envelope's root.
        The floor is paid first: its lines are flat here, and the limits lower by its cost.
        """
        slope = torch.from_numpy(np.where(floor, 0, steep))
        shift, start = (torch.tensor(value, dtype=torch.float64) for value in (offset, guess))
        for measure, cost in self.costs.items():
            limit, last = self.limits[measure], np.inf
            while x < last * (1 - ROUNDING):
                u = np.minimum(np.maximum(steep * x - offset, 0), 1)
                over = cost(u) - limit
                if over <= MET * limit:
                    break
                costs = cost.gradient(u)
                left = torch.tensor(max((costs * (u - floor)).sum() - over, 0), dtype=torch.float64)
                found = float(root(slope, shift, torch.from_numpy(costs), left, start=start))
                x, last = min(found, x), x
        return x

    # -- at hardness 1 -----------------------------------------------------------------------------

    def choose(self, saliency: np.ndarray) -> np.ndarray:
        """Choose the groups to keep for good, bool of shape (m,).

        In the order of their saliency (ties by index), after each layer's floor: the longest prefix
        that fits, then every later group that still fits. Never above a limit, and no group (with
        steps: no unit of a layer) that was left out would still fit.

        With trials, the network without the others is really made and measured, and more groups go
        until it holds what was asked.

        Raises:
            ValueError: the saliency holds NaN or inf.
        """
        refuse_bad(saliency)
        if self.trials:
            return choose_by_trial(self, saliency)
        units = self._units(saliency, self.floor(saliency))
        low, high = 0, len(units)
        while low < high:  # the longest prefix that fits
            middle = (low + high + 1) // 2
            if self.fits(units.first(middle)):
                low = middle
            else:
                high = middle - 1
        return self._filled(units.first(low), units, np.arange(low, len(units))) > 0

    def _filled(self, kept: np.ndarray, units: Units, candidates: np.ndarray) -> np.ndarray:
        """Add whatever still fits, in the order of the candidates; costs only grow, so one pass."""
        while len(candidates):
            may_fit = np.ones(len(candidates), bool)
            for measure, cost in self.costs.items():  # a slope is the least that a group can cost
                room = self.limits[measure] * (1 + ROUNDING) - cost(kept)
                may_fit &= units.sums(cost.gradient(kept))[candidates] <= room
            candidates = candidates[may_fit]
            for position, unit in enumerate(candidates):
                kept[units.groups(unit)] = 1
                if self.fits(kept):
                    candidates = candidates[position + 1 :]
                    break
                kept[units.groups(unit)] = 0
            else:
                break
        return kept

    # -- the floor ---------------------------------------------------------------------------------

    def floor(self, saliency: np.ndarray) -> np.ndarray:
        """The groups of each layer that stay in any case, bool of shape (m,).

        The strongest ones; where these are above a limit, the first layers take their cheapest
        groups instead, as many layers as it takes.
        """
        strong = self._first_of_each(saliency)
        if self.fits(strong.astype(float)):
            return strong
        cheap = self.cheapest()
        for layer in self.layers:
            strong[layer.span] = cheap[layer.span]
            if self.fits(strong.astype(float)):
                break
        return strong

    def cheapest(self) -> np.ndarray:
        """The least that can be kept: the cheapest groups of each layer, (m,) bool."""
        return self._first_of_each(-self.slopes(np.ones(self.layers[-1].stop)))

    def _first_of_each(self, values: np.ndarray) -> np.ndarray:
        """The largest values of each layer, as many as stay there, ties by index."""
        first = np.zeros(len(values), bool)
        if self.live is None:
            sizes = [len(layer) for layer in self.layers]
        else:
            values = np.where(self.live, values, -np.inf)
            sizes = [int(self.live[layer.span].sum()) for layer in self.layers]
        counts = least(sizes, self.steps, self.at_least)
        for layer, count in zip(self.layers, counts, strict=True):
            part = values[layer.span]
            best = np.argsort(-part, kind="stable")[:count] if count > 1 else part.argmax()
            first[layer.start + best] = True
        return first

    def most(self) -> np.ndarray:
        """The most that can be kept: all groups, but for those that complete no unit, (m,) bool."""
        units = self._units(np.zeros(self.layers[-1].stop), self.cheapest())
        return units.first(len(units)) > 0

    def _units(self, saliency: np.ndarray, floor: np.ndarray) -> Units:
        """The units in the order in which they are chosen, after the floor."""
        return ordered(saliency, floor, self.layers, self.steps, live=self.live, even=self.even)


def refuse_bad(saliency: np.ndarray) -> None:
    """Refuse a saliency that holds NaN or inf."""
    if not np.isfinite(saliency).all():
        bad = int((~np.isfinite(saliency)).sum())
        raise ValueError(
            f"the saliency of {bad} of {len(saliency)} groups is NaN or inf; "
            "check the norms and weights that it comes from"
        )
