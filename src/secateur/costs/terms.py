"""What a network costs as a function of how much of each group is kept.

In: a coupling (where each group sits in every tensor and operator). Out: a `Cost`, which gives the
exact parameters, bytes or FLOPs for multipliers u in [0, 1], and its gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np

from secateur.groups import Coupling

Term = tuple[float, tuple[np.ndarray, ...]]  # a rate, and the groups along each of its axes


@dataclass(frozen=True, eq=False)
class Cost:
    """A sum of products of widths: C(u) = sum_t rate_t prod_k width_tk(u).

    Each width counts the indices of one axis that are kept: those of each group by its multiplier,
    those in no group whole. Widths are linear in u, so C is multilinear (where no group is on both
    axes of a product), increasing, and exact wherever u is 0 or 1: C(ones) is the full network's
    (and that of the biases that removal adds to it, where dead channels leave constants behind).

    Attributes:
        group_count: m.
        entries: the groups along each axis, one axis after the other; m stands for "no group".
        times: how often each entry appears there.
        starts: where each axis begins in them.
        rates: (terms,).
        factors: the axes that each term multiplies, (terms, factors).

    Source: own; the multilinear costs of docs/math.md, section 5.
    """

    group_count: int
    entries: np.ndarray
    times: np.ndarray
    starts: np.ndarray
    rates: np.ndarray
    factors: np.ndarray

    def __call__(self, multipliers: np.ndarray) -> float:
        """The cost at `multipliers`, float64 of shape (m,)."""
        if self.linear:
            fixed, each = self._sum
            return fixed + float((each * multipliers).sum())  # BLAS would start threads for it
        return float(self.rates @ self.products(multipliers))

    def products(self, multipliers: np.ndarray) -> np.ndarray:
        """The products of widths that the rates multiply, (products,)."""
        return self._widths(multipliers).prod(1)

    def gradient(self, multipliers: np.ndarray) -> np.ndarray:
        """dC/du, shape (m,): what the last bit of each group costs at `multipliers`."""
        return self._sum[1] if self.linear else self._gradient_at(multipliers)

    @property
    def linear(self) -> bool:
        """Whether no term has two axes: a sum over groups then, as a count is, or several."""
        return self.factors.shape[1] == 1

    @cached_property
    def _sum(self) -> tuple[float, np.ndarray]:
        """A linear cost as a number and a vector (m,) that multiplies the multipliers."""
        nothing = np.zeros(self.group_count)
        return float(self.rates @ self.products(nothing)), self._gradient_at(nothing)

    def _gradient_at(self, multipliers: np.ndarray) -> np.ndarray:
        widths = self._widths(multipliers)
        left_out = np.eye(widths.shape[1], dtype=bool)[:, None]  # (factors, 1, factors)
        others = self.rates * np.where(left_out, 1.0, widths).prod(2)  # (factors, terms)
        per_width = np.bincount(self.factors.T.ravel(), others.ravel(), len(self.starts))
        lengths = np.diff(self.starts, append=len(self.entries))
        per_entry = np.repeat(per_width, lengths) * self.times
        return np.bincount(self.entries, per_entry, self.group_count + 1)[:-1]

    def _widths(self, multipliers: np.ndarray) -> np.ndarray:
        """The widths that each term multiplies, (terms, factors)."""
        kept = np.concatenate([multipliers, _WHOLE])[self.entries] * self.times
        return np.add.reduceat(kept, self.starts)[self.factors]

    @classmethod
    def of(cls, terms: Iterable[Term], group_count: int) -> Cost:
        """Build a cost from its terms; equal axes are shared and equal products added up."""
        return cls.numbered(terms, group_count)[0]

    @classmethod
    def numbered(cls, terms: Iterable[Term], group_count: int) -> tuple[Cost, np.ndarray]:
        """The same, and which of the products each term is part of, int64 of shape (terms,)."""
        numbers: dict[bytes, int] = {}
        axes: list[np.ndarray] = []
        products: dict[tuple[int, ...], float] = {}
        keys: list[tuple[int, ...]] = []
        one = np.array([-1])  # an axis of width 1, which fills short products
        for rate, factors in [(0.0, (one,)), *terms]:
            product = []
            for groups in factors:
                key = np.ascontiguousarray(groups, np.int64).tobytes()
                if key not in numbers:
                    numbers[key] = len(axes)
                    axes.append(groups)
                product.append(numbers[key])
            ordered = tuple(sorted(product))
            keys.append(ordered)
            products[ordered] = products.get(ordered, 0.0) + rate
        depth = max(map(len, products))
        padded = [(0,) * (depth - len(product)) + product for product in products]
        unique = [np.unique(groups, return_counts=True) for groups in axes]
        entries = np.concatenate([found for found, _ in unique])
        built = cls(
            group_count,
            np.where(entries < 0, group_count, entries),
            np.concatenate([times for _, times in unique]).astype(float),
            np.cumsum([0] + [len(found) for found, _ in unique])[:-1],
            np.array(list(products.values())),
            np.array(padded),
        )
        position = {key: number for number, key in enumerate(products)}
        return built, np.array([position[key] for key in keys[1:]], int)


_WHOLE = np.ones(1)  # how much is kept of what is in no group


def state_terms(coupling: Coupling, measure: str) -> Iterator[Term]:
    """The parameters (or "bytes": of parameters and buffers), those that removal adds included."""
    for slot in coupling.slots:
        if measure == "bytes" or slot.is_parameter:
            grouped = [entries for entries in slot.entries if entries is not None]
            rest = [size for size, e in zip(slot.shape, slot.entries, strict=True) if e is None]
            unit = slot.itemsize if measure == "bytes" else 1
            yield from present(float(np.prod(rest) * unit), grouped, slot.within)
    slots = {slot.names[0]: slot for slot in coupling.slots}
    for name, dim in coupling.added:
        slot = slots[name]
        entries = slot.entries[dim]
        unit = slot.itemsize if measure == "bytes" else 1
        rows = [entries] if entries is not None else []
        rate = float(unit if rows else unit * slot.shape[dim])
        yield from present(rate, rows, slot.within)


def present(
    rate: float, axes: list[np.ndarray], within: tuple[tuple[int, ...], ...]
) -> Iterator[Term]:
    """The terms of what is there while each set of `within` has a living group.

    A set lives by 1 - prod (1 - u) = sum over its non-empty subsets of (-1)^(size - 1) prod u.
    """
    subsets = [
        [part for size in range(1, len(groups) + 1) for part in combinations(groups, size)]
        for groups in within
    ]
    for parts in product(*subsets):
        sign = (-1) ** sum(len(part) - 1 for part in parts)
        yield sign * rate, (*axes, *(np.array([group]) for part in parts for group in part))
