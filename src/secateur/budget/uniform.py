"""A budget that every layer meets with the same share of its groups: one level a layer.

In: the groups' saliencies and a hardness. Out: multipliers with a threshold of its own in every
layer, all at the one share of kept groups whose cost equals the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from secateur.budget.allowance import Allowance, refuse_bad
from secateur.budget.search import Looked, crossing
from secateur.envelope.root import multipliers_by_segment

FIRST = 1e30  # the floor's saliency over the largest one: it is whole before others begin
LEAST = 1e-9  # share


@dataclass(frozen=True, eq=False)
class UniformAllowance(Allowance):
    """An `Allowance` with one level a layer, as the paper has it.

    The level of a layer of n groups is share * n; the share is the largest at which every limit
    holds. At hardness 1 the layers are filled up evenly, by the saliency within each; what is left
    of the budget goes to the units that come next and still fit.

    Example:
        >>> from secateur.costs import Cost
        >>> from secateur.groups import Layer
        >>> two_layers = (Layer("a", "neurons", 0, 4), Layer("b", "neurons", 4, 6))
        >>> count = Cost.of([(1.0, (np.arange(6),))], 6)
        >>> allowance = UniformAllowance({"groups": count}, {"groups": 3.0}, two_layers, at_least=1)
        >>> allowance.choose(np.array([1.0, 9.0, 8.0, 7.0, 1.0, 2.0])).astype(int)
        array([0, 1, 1, 0, 0, 1])
    """

    even: ClassVar[bool] = True

    def relax(
        self, saliency: np.ndarray, hardness: float, *, start: float | None = None
    ) -> tuple[np.ndarray, float]:
        """Give the multipliers of firm shrinkage, with a threshold of its own in every layer.

            u_j = clip((saliency_j / T_l - hardness) / (1 - hardness), 0, 1),  sum = share * n_l

        Args:
            saliency: float64 of shape (m,), finite, 0 or more.
            hardness: in (0, 1).
            start: the share of the last step; changes only the time.

        Returns:
            (u, share): u of shape (m,); the share is 1 where the non-zero groups already fit.

        Raises:
            ValueError: the saliency holds NaN or inf.
        """
        refuse_bad(saliency)
        floor = self.floor(saliency)
        pressed = np.where(floor, FIRST * saliency.max(initial=1.0), saliency)
        whole = (floor | (saliency > 0)).astype(float)
        if self.fits(whole):
            return whole, 1.0
        at = self._levelled(pressed, hardness)

        def look(share: float) -> Looked:
            kept, moving = at(share)
            return self.looked(np.where(floor, 1, kept), np.where(floor, 0, moving))

        share = crossing(look, LEAST, 1.0, start)
        return np.where(floor, 1.0, at(share)[0]), share

    @cached_property
    def levels(self) -> np.ndarray:
        """How much of each layer may be kept, (layers,), were its groups all kept in equal part."""
        sizes = np.array([len(layer) for layer in self.layers])
        ones = np.ones(sizes.sum())
        if self.fits(ones):
            return sizes.astype(float)
        return sizes * crossing(lambda share: self.looked(share * ones, ones), LEAST, 1.0)

    def _levelled(
        self, saliency: np.ndarray, hardness: float
    ) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
        """Multipliers as a function of the share, and how they move with it, (m,) each.

        The roots of all layers are found in one call.
        """
        slope = torch.from_numpy(saliency / (1 - hardness))
        offset = torch.tensor(hardness / (1 - hardness), dtype=torch.float64)
        bounds = torch.from_numpy(self.bounds)
        sizes, last = np.diff(self.bounds), None

        def at(share: float) -> tuple[np.ndarray, np.ndarray]:
            nonlocal last
            levels = torch.from_numpy(share * sizes)
            found, last = multipliers_by_segment(slope, offset, levels, bounds, start=last)
            kept = found.numpy()
            moving = np.where((kept > 0) & (kept < 1), slope.numpy(), 0)
            rates = np.add.reduceat(moving, self.bounds[:-1])  # of a layer, by its root
            per_share = np.divide(sizes, rates, out=np.zeros(len(sizes)), where=rates > 0)
            return kept, moving * per_share.repeat(sizes)

        return at

    @cached_property
    def bounds(self) -> np.ndarray:
        """Where the layers' groups begin, and the last one's end, int64 (layers + 1,)."""
        return np.array([0, *(layer.stop for layer in self.layers)])
