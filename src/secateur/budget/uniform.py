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
from secateur.envelope.root import multipliers_by_segment

FIRST = 1e30  # the floor's saliency over the largest one: it is whole before others begin
NARROW = 1e-3  # relative: how far the share moves in a step, most of the time


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
        at = self._levelled(pressed, hardness)

        def kept(share: float) -> np.ndarray:
            return np.where(floor, 1.0, at(share))

        whole = (floor | (saliency > 0)).astype(float)
        if self.fits(whole):
            return whole, 1.0
        share = _largest(lambda share: self.excess(kept(share)), near=start)
        return kept(share), share

    @cached_property
    def levels(self) -> np.ndarray:
        """How much of each layer may be kept, (layers,), were its groups all kept in equal part."""
        sizes = np.array([len(layer) for layer in self.layers])
        if self.fits(np.ones(sizes.sum())):
            return sizes.astype(float)
        return sizes * _largest(lambda share: self.excess(np.full(sizes.sum(), share)))

    def _levelled(self, saliency: np.ndarray, hardness: float) -> Callable[[float], np.ndarray]:
        """Multipliers as a function of the share: the roots of all layers in one call."""
        slope = torch.from_numpy(saliency / (1 - hardness))
        offset = torch.tensor(hardness / (1 - hardness), dtype=torch.float64)
        bounds = torch.from_numpy(self.bounds)
        sizes, last = bounds.diff().double(), None

        def at(share: float) -> np.ndarray:
            nonlocal last
            found, last = multipliers_by_segment(slope, offset, share * sizes, bounds, start=last)
            return found.numpy()

        return at

    @cached_property
    def bounds(self) -> np.ndarray:
        """Where the layers' groups begin, and the last one's end, int64 (layers + 1,)."""
        return np.array([0, *(layer.stop for layer in self.layers)])


def _largest(excess: Callable[[float], float], near: float | None = None) -> float:
    """The share at which `excess`, which rises with it and is above 0 at 1, is 0."""
    low, high = 1e-9, 1.0
    if near is not None:
        below, above = near * (1 - NARROW), min(1.0, near * (1 + NARROW))
        if excess(below) <= 0 < excess(above):
            low, high = below, above
    from scipy.optimize import brentq  # takes 0.1 s to import

    return brentq(excess, low, high, xtol=1e-300, rtol=1e-15)  # pyright: ignore
