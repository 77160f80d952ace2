"""From a budget to what is kept: the threshold that the true, nonlinear cost determines.

In: the groups' saliencies and a hardness. Out: a multiplier per group whose cost meets every limit;
at hardness 1, a set of groups. (math.md, section 5.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from secateur.budget.costs import Cost
from secateur.envelope.firm import multipliers_at
from secateur.groups import Layer

PRECISION = 1e-9  # of the threshold while the hardness is below 1; at 1 the cost is met exactly


@dataclass(frozen=True, eq=False)
class Allowance:
    """A budget in the units of one model: limits on its costs.

    Attributes:
        costs: measure -> cost.
        limits: measure -> the most that may be spent, absolute.
        layers: the ranges of groups in which at least `at_least` groups stay.
        at_least: how many groups stay in each layer.
    """

    costs: Mapping[str, Cost]
    limits: Mapping[str, float]
    layers: tuple[Layer, ...]
    at_least: int

    def spent(self, multipliers: np.ndarray) -> dict[str, float]:
        """What `multipliers`, shape (m,), cost in each measure."""
        return {measure: cost(multipliers) for measure, cost in self.costs.items()}

    def fits(self, multipliers: np.ndarray) -> bool:
        """Whether every limit holds."""
        return self.excess(multipliers) <= 0

    def excess(self, multipliers: np.ndarray) -> float:
        """How far the worst measure lies above its limit, relative to the limit."""
        return max(
            (cost(multipliers) - self.limits[m]) / self.limits[m] for m, cost in self.costs.items()
        )

    def slopes(self, multipliers: np.ndarray) -> np.ndarray:
        """The cost of each group at `multipliers`: its share of the limits, added up, (m,)."""
        return np.sum(
            [cost.gradient(multipliers) / self.limits[m] for m, cost in self.costs.items()], axis=0
        )

    # -- which groups are kept ----------------------------------------------------------------------

    def relax(
        self, saliency: np.ndarray, hardness: float, *, start: float | None = None
    ) -> tuple[np.ndarray, float]:
        """The multipliers of firm shrinkage that spend exactly what is allowed.

        u_j = clip((saliency_j / T - hardness) / (1 - hardness), 0, 1) with the smallest threshold
        T at which every limit holds; the `at_least` strongest groups of each layer have u = 1.

        Args:
            saliency: a_j sqrt(d_j / c_j), float64 of shape (m,), 0 or more.
            hardness: in (0, 1).
            start: a threshold near the root, such as the last step's.

        Returns:
            (u, T): u of shape (m,); T is 0 where the non-zero groups already fit.
        """
        finite = np.where(self._floor(saliency), np.inf, saliency)

        def excess(log_threshold: float) -> float:
            return self.excess(multipliers_at(finite, np.exp(log_threshold), hardness))

        if self.excess(np.where(finite > 0, 1.0, 0.0)) <= 0:
            return np.where(finite > 0, 1.0, 0.0), 0.0
        free = finite[(finite > 0) & np.isfinite(finite)]
        low, high = np.log(free.min()), np.log(free.max()) - np.log(hardness)
        if start is not None and start > 0:  # a narrow bracket around the last root, if it holds
            near_low, near_high = np.log(start) - 0.05, np.log(start) + 0.05
            if low < near_low and excess(near_low) > 0:
                low = near_low
            if near_high < high and excess(near_high) <= 0:
                high = near_high
        if excess(high) > 0:  # the floor itself is over budget: the freeze finds a cheaper one
            return np.where(np.isinf(finite), 1.0, 0.0), float(np.exp(high))
        threshold = np.exp(brentq(excess, low, high, xtol=PRECISION, rtol=PRECISION))
        return multipliers_at(finite, threshold, hardness), float(threshold)

    def choose(self, saliency: np.ndarray) -> np.ndarray:
        """The groups to keep for good, bool of shape (m,).

        In the order of their saliency (ties by index), after each layer's floor: the longest prefix
        that fits, then every later group that still fits. Never above a limit, and below it by less
        than the cheapest group that was left out.

        Raises:
            ValueError: the saliency holds NaN.
        """
        if np.isnan(saliency).any():
            raise ValueError(f"the norms of {int(np.isnan(saliency).sum())} groups are NaN")
        kept = self._affordable_floor(saliency)
        order = np.argsort(np.where(kept, -np.inf, -saliency), kind="stable")
        rank = np.empty(len(order), int)
        rank[order] = np.arange(len(order))
        low, high = int(kept.sum()), len(order)
        while low < high:  # the longest prefix that fits
            middle = (low + high + 1) // 2
            if self.fits((rank < middle).astype(float)):
                low = middle
            else:
                high = middle - 1
        return self._fill(rank < low, order)

    def _fill(self, kept: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Add whatever still fits behind the prefix, strongest first."""
        layer_of = np.repeat(np.arange(len(self.layers)), [len(layer) for layer in self.layers])
        open_ = ~kept
        while open_.any():
            now = kept.astype(float)
            slack = {m: self.limits[m] - cost(now) for m, cost in self.costs.items()}
            slope = {m: cost.gradient(now) for m, cost in self.costs.items()}
            for measure, room in slack.items():  # a slope is the least that a group can cost
                open_ &= slope[measure] <= room
            candidates = order[open_[order]]
            if not len(candidates):
                break
            first = candidates[0]
            kept[first] = True
            if self.fits(kept.astype(float)):
                open_[first] = False
            else:
                kept[first] = False
                like = layer_of == layer_of[first]
                for measure in self.costs:
                    like &= slope[measure] >= slope[measure][first]
                open_ &= ~like
        return kept

    # -- the floor ------------------------------------------------------------------------------------

    def _floor(self, saliency: np.ndarray) -> np.ndarray:
        """The `at_least` groups of each layer that come first by `saliency`, (m,) bool."""
        kept = np.zeros(len(saliency), bool)
        for layer in self.layers:
            part = saliency[layer.start : layer.stop]
            best = np.argsort(-part, kind="stable")[: self.at_least]
            kept[layer.start + best] = True
        return kept

    def _affordable_floor(self, saliency: np.ndarray) -> np.ndarray:
        """The strongest floor that fits: layers take their cheapest groups only where they must."""
        strong, cheap = self._floor(saliency), self.cheapest()
        for layer in self.layers:
            if self.fits(strong.astype(float)):
                break
            part = slice(layer.start, layer.stop)
            strong[part] = cheap[part]
        return strong

    def cheapest(self) -> np.ndarray:
        """The least that can be kept: the cheapest `at_least` groups of each layer, (m,) bool."""
        full = np.ones(self.layers[-1].stop)
        return self._floor(-self.slopes(full))
