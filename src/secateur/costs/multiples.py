"""How many groups of a layer come and go together, so that its width stays a multiple.

In: groups and a multiple such as 8. Out: for every layer a number of groups; and the order in which
such units are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secateur.groups import Groups, Layer

NO_WIDTH = ("depth", "experts")  # kinds that count modules, not channels


def steps(groups: Groups, multiple_of: int) -> tuple[int, ...]:
    """How many groups of each layer make a width of `multiple_of` channels.

    A group of 4 channels needs 2 for a multiple of 8, a head of 64 channels 1. It is 1 also where
    there is no width: the layer's groups differ in size, or leave zeros in place.

    Args:
        groups: the groups; those that no trace ties to an axis have no width.
        multiple_of: 1 or more.

    Raises:
        ValueError: no layer has a width.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.Linear(20, 2))
        >>> steps(sc.neurons(model, torch.ones(1, 4)), 8)
        (8,)
    """
    if multiple_of == 1:
        return (1,) * len(groups.layers)
    channels = [_channels(groups, layer) for layer in groups.layers]
    if not any(channels):
        raise ValueError(
            f"Budget(multiple_of={multiple_of}): none of these {len(groups)} groups is part of a "
            "width; multiple_of rounds the widths of filters, neurons, channels or heads"
        )
    return tuple(multiple_of // math.gcd(multiple_of, n) if n else 1 for n in channels)


def _channels(groups: Groups, layer: Layer) -> int:
    """How many channels wide each group of a layer is; 0 where they differ or have no width."""
    if groups.coupling is None or layer.blocks or layer.kind in NO_WIDTH:
        return 0
    found: set[int] = set()
    for slot in groups.coupling.slots:
        for entries in slot.entries:
            if entries is not None:
                mine = entries[(entries >= layer.start) & (entries < layer.stop)] - layer.start
                counts = np.bincount(mine, minlength=len(layer)) if len(mine) else np.zeros(1, int)
                if counts.min() != counts.max():
                    return 0
                found.add(int(counts[0]))
    found.discard(0)
    # a flattened map has many entries a channel; an attention's bias table has one entry a head
    return (max if layer.kind == "heads" else min)(found, default=0)


def least(sizes: Sequence[int], steps: Sequence[int], at_least: int) -> tuple[int, ...]:
    """How many groups stay in each layer of `sizes` groups in any case.

    `at_least`, rounded up to whole units; all, of a layer that has no more or is narrower than one
    unit.
    """
    rounded = [-(-at_least // step) * step for step in steps]
    return tuple(min(size, count) for size, count in zip(sizes, rounded, strict=True))


@dataclass(frozen=True, eq=False)
class Units:
    """Groups in the order in which they are chosen, whole units of them at a time.

    Attributes:
        number: the unit of each group, shape (m,): -1 in the floor, `count` in no whole unit.
        count: how many units there are.
    """

    number: np.ndarray
    count: int

    def __len__(self) -> int:
        return self.count

    def first(self, count: int) -> np.ndarray:
        """The multipliers that keep the floor and the first `count` units, float64 of (m,)."""
        return (self.number < count).astype(float)

    def groups(self, unit: int) -> np.ndarray:
        """The groups of one unit."""
        order, starts = self._sorted
        return order[starts[unit] : starts[unit + 1]]

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.number, kind="stable")
        return order, np.searchsorted(self.number[order], np.arange(self.count + 1))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Add up `values`, shape (m,), over each unit."""
        return np.bincount(self.number + 1, values, self.count + 2)[1:-1]


def ordered(
    worth: np.ndarray,
    floor: np.ndarray,
    layers: Sequence[Layer],
    steps: Sequence[int],
    *,
    live: np.ndarray | None = None,
    even: bool = False,
) -> Units:
    """Put groups into units, and the units into the order in which they are chosen.

    After the floor, units come by their root mean square worth, ties by index.

    Args:
        worth: the saliency, float64 of shape (m,), 0 or more.
        floor: the groups that stay in any case, bool of shape (m,).
        layers: the layers of the groups.
        steps: the groups in a unit of each layer.
        live: the groups that may be chosen, bool of shape (m,); all by default.
        even: order the units by the share of their layer that is kept with them, so that all layers
            keep the same share; within a layer by worth.
    """
    number = np.where(floor, -1, len(worth))
    open_ = ~floor if live is None else live & ~floor
    keys, count = [np.empty(0)], 0
    for layer, step in zip(layers, steps, strict=True):
        free = layer.start + np.flatnonzero(open_[layer.span])
        free = free[np.argsort(-worth[free], kind="stable")]
        whole = len(free) // step
        units = free[: whole * step].reshape(whole, step)
        number[units] = count + np.arange(whole)[:, None]
        kept = int(floor[layer.span].sum()) + step * np.arange(1, whole + 1)
        square = np.hypot.reduce(worth[units], axis=1) / np.sqrt(step)
        keys.append(kept / len(layer) if even else -square)
        count += whole
    rank = np.empty(count, int)
    rank[np.argsort(np.concatenate(keys), kind="stable")] = np.arange(count)
    in_unit = (number >= 0) & (number < count)
    number[~in_unit & ~floor] = count
    number[in_unit] = rank[number[in_unit]]
    return Units(number, count)
