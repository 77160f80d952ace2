"""A budget where every block of m consecutive groups keeps exactly n of them.

In: the groups' saliencies and a hardness. Out: multipliers that meet n in every block on its own,
and the budget of an `Allowance` in all other groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from secateur.budget.allowance import Allowance, refuse_bad
from secateur.budget.trials import Trial, choose_by_trial
from secateur.costs.terms import Cost
from secateur.envelope.root import multipliers_at_root, root
from secateur.groups import Layer


@dataclass(frozen=True, eq=False)
class NMAllowance:
    """A budget in which some layers keep n of every m consecutive groups.

    Attributes:
        whole: the budget as it was asked, of all groups.
        rest: what is left of it for the groups in no block; None where there are none.
        layers: the layers of blocks, each with its (n, m).

    Example:
        >>> layer = Layer("fc", "1_of_2", 0, 4, blocks=(1, 2))
        >>> count = Cost.of([(1.0, (np.arange(4),))], 4)
        >>> whole = Allowance({"groups": count}, {"groups": 2.0}, (layer,), at_least=1)
        >>> NMAllowance.of(whole).choose(np.array([4.0, 3.0, 1.0, 2.0]))
        array([ True, False, False,  True])
    """

    whole: Allowance
    rest: Allowance | None
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, whole: Allowance) -> NMAllowance:
        """Split an allowance at the layers that have blocks.

        Raises:
            ValueError: a count of groups that isn't what the blocks keep, or leaves less than one
                group for another layer.
        """
        layers = tuple(layer for layer in whole.layers if layer.blocks)
        others = [layer for layer in whole.layers if not layer.blocks]
        fixed = sum(_kept(layer) for layer in layers)
        least = sum(min(whole.at_least, len(layer)) for layer in others)
        asked = whole.limits.get("groups", fixed + least)
        if asked < fixed + least or (asked != fixed and not others):
            total = whole.layers[-1].stop
            advice = (
                f"the other layers at least {least:,}; pass groups={fixed + least:,} or more"
                if others
                else f"nothing else is to be decided; pass groups={fixed / total:.6g}"
            )
            raise ValueError(
                f"Budget(groups={asked:,.0f}): n of every m keep exactly {fixed:,} of these "
                f"{total:,} groups, {advice}"
            )
        if not others:
            return cls(whole, None, layers)
        costs, limits = dict(whole.costs), dict(whole.limits)
        if "groups" in costs:
            counted = np.concatenate([np.arange(layer.start, layer.stop) for layer in others])
            costs["groups"] = Cost.of([(1.0, (counted,))], whole.layers[-1].stop)
            limits["groups"] -= fixed
        return cls(whole, replace(whole, costs=costs, limits=limits, trials={}), layers)

    def restricted(self, live: np.ndarray) -> NMAllowance:
        """The same budget where only some groups, bool of shape (m,), may stay.

        Blocks keep what they kept: their n of every m are the same in every budget.
        """
        rest = None if self.rest is None else self.rest.restricted(live)
        return replace(self, whole=self.whole.restricted(live), rest=rest)

    def limited(self, limits: Mapping[str, float]) -> NMAllowance:
        """The same with other limits, by its costs alone."""
        return NMAllowance.of(self.whole.limited(limits))

    @property
    def trials(self) -> Mapping[str, Trial]:
        """Measure -> what decides in the place of its cost when groups are chosen for good."""
        return self.whole.trials

    @property
    def costs(self) -> Mapping[str, Cost]:
        """Measure -> cost."""
        return self.whole.costs

    @property
    def limits(self) -> Mapping[str, float]:
        """Measure -> the most that may be spent, absolute."""
        return self.whole.limits

    @property
    def share(self) -> float:
        """How much of the network may stay, by the measure that asks for the least."""
        return self.whole.share

    @property
    def at_least(self) -> int:
        """How many groups stay in each layer without blocks."""
        return self.whole.at_least

    def spent(self, multipliers: np.ndarray) -> dict[str, float]:
        """What `multipliers`, shape (m,), cost in each measure."""
        return self.whole.spent(multipliers)

    def slopes(self, multipliers: np.ndarray) -> np.ndarray:
        """The cost of each group at `multipliers`, (m,); equal within a block."""
        return self.whole.slopes(multipliers)

    def cheapest(self) -> np.ndarray:
        """The least that can be kept, (m,) bool."""
        return self.patterned(self.whole.cheapest())

    def patterned(self, kept: np.ndarray) -> np.ndarray:
        """`kept`, bool of shape (m,), with the first n groups of every block instead."""
        kept = kept.copy()
        for layer, (mine,) in self._in_blocks(kept):
            mine[:] = np.arange(mine.shape[1]) < _level(layer)
        return kept

    def relax(
        self, saliency: np.ndarray, hardness: float, *, start: float | None = None
    ) -> tuple[np.ndarray, float]:
        """Give the multipliers of firm shrinkage, with a threshold T of its own in every block.

            u_j = clip((saliency_j / T - hardness) / (1 - hardness), 0, 1),  sum over a block = n

        Args:
            saliency: float64 of shape (m,), finite, 0 or more.
            hardness: in (0, 1).
            start: the last step's threshold outside blocks.

        Returns:
            (u, T): u of shape (m,); T is the threshold outside blocks, 0 where there is nothing.

        Raises:
            ValueError: the saliency holds NaN or inf.
        """
        refuse_bad(saliency)
        u, threshold = np.zeros_like(saliency), 0.0
        if self.rest is not None:
            u, threshold = self.rest.relax(self._outside(saliency), hardness, start=start)
        offset = torch.tensor(hardness / (1 - hardness), dtype=torch.float64)
        one = torch.ones((), dtype=torch.float64)
        for layer, (worth, mine) in self._in_blocks(saliency, u):
            slope = torch.from_numpy(worth / (1 - hardness))
            level = torch.full((len(slope),), float(_level(layer)), dtype=torch.float64)
            t = root(slope, offset, one, level)
            mine[:] = multipliers_at_root(t, slope, offset).numpy()
        return u, threshold

    def choose(self, saliency: np.ndarray) -> np.ndarray:
        """Choose the groups to keep for good: the n strongest of every block, ties by index.

        Returns:
            bool of shape (m,).

        Raises:
            ValueError: the saliency holds NaN or inf.
        """
        refuse_bad(saliency)
        if self.trials:
            return choose_by_trial(self, saliency)
        kept = np.zeros(len(saliency), bool)
        if self.rest is not None:
            kept = self.rest.choose(self._outside(saliency))
        for layer, (worth, mine) in self._in_blocks(saliency, kept):
            first = np.argsort(-worth, axis=1, kind="stable")[:, : _level(layer)]
            mine[:] = False
            np.put_along_axis(mine, first, True, axis=1)
        return kept

    def _in_blocks(self, *vectors: np.ndarray) -> Iterator[tuple[Layer, list[np.ndarray]]]:
        """Each layer of blocks, with its part of the vectors as (blocks, m) views."""
        for layer in self.layers:
            assert layer.blocks is not None
            size = layer.blocks[1]
            yield layer, [vector[layer.span].reshape(-1, size) for vector in vectors]

    def _outside(self, saliency: np.ndarray) -> np.ndarray:
        """The saliency as `rest` sees it: what is in a block is free there and comes first."""
        seen = saliency.copy()
        for layer in self.layers:
            seen[layer.span] = 0
        strongest = seen.max()
        for layer in self.layers:
            seen[layer.span] = strongest
        return seen


def _level(layer: Layer) -> int:
    assert layer.blocks is not None
    return layer.blocks[0]


def _kept(layer: Layer) -> int:
    assert layer.blocks is not None
    return len(layer) // layer.blocks[1] * layer.blocks[0]
