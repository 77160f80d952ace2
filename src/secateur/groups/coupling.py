"""`Coupling`: where each group sits in a model, so that what removing it saves can be told.

In: for every parameter, buffer and operator, the group of every index along each axis. Out: the
same for two kinds of groups together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from secateur.tracing.statistics import Recipe

NO_AXIS = np.array([-1])  # stands for an axis of an operator that no group cuts


@dataclass(frozen=True)
class Slot:
    """A parameter or buffer, and along each dimension the group of every index (None: no group).

    `within` names groups that hold the whole of it, in sets: it goes when all of one set do.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    itemsize: int
    is_parameter: bool
    entries: tuple[np.ndarray | None, ...]
    within: tuple[tuple[int, ...], ...] = ()

    @property
    def is_cut(self) -> bool:
        """Whether any group takes something of it."""
        return bool(self.within) or any(line is not None for line in self.entries)


@dataclass(frozen=True)
class Operation:
    """An operator's FLOPs at full size, and for each of its axes the group of every index.

    FLOPs shrink with each axis: they are flops x the product of the kept fractions. The axes come
    in an order of the operator's own, those that nothing cuts as `NO_AXIS`, so that two kinds of
    groups can be put together. `within` names groups that hold the whole operator, as in `Slot`.
    """

    name: str
    flops: int
    entries: tuple[np.ndarray, ...]
    within: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Size:
    """A module's attribute that holds the size of an axis: the group of every index along it."""

    module: str
    attribute: str
    entries: np.ndarray


@dataclass(frozen=True)
class Absence:
    """A module that leaves when all of some groups do, and what takes its place."""

    groups: tuple[int, ...]
    module: str
    recipe: Mapping[str, Any]


@dataclass(frozen=True)
class Routed:
    """A module with stacked experts: the group of each, and what is made of those that are gone."""

    module: str
    entries: np.ndarray
    gone: int  # forward_wrappers.py


@dataclass(frozen=True)
class Coupling:
    """Where each group sits in a model: what removing it removes and saves.

    Attributes:
        slots: every parameter and buffer.
        operations: every operator that costs FLOPs.
        added: biases that removal adds to fold constants: a weight and its output dimension each.
        sizes: attributes of modules that shrink with an axis.
        absent: modules that leave with groups.
        norms: normalisations over axes that groups cut.
        routed: modules that are told which of their experts to use.
    """

    slots: tuple[Slot, ...]
    operations: tuple[Operation, ...]
    added: tuple[tuple[str, int], ...] = ()
    sizes: tuple[Size, ...] = ()
    absent: tuple[Absence, ...] = ()
    norms: tuple[Norm, ...] = ()
    routed: tuple[Routed, ...] = ()

    def blank(self) -> Coupling:
        """The same model with no group anywhere."""
        slots = tuple(
            replace(slot, entries=(None,) * len(slot.shape), within=()) for slot in self.slots
        )
        operations = tuple(
            replace(operation, entries=(), within=()) for operation in self.operations
        )
        return Coupling(slots, operations)

    def join(self, other: Coupling, offset: int) -> Coupling:
        """The coupling of both; group numbers of `other` are shifted by `offset`."""
        slots = tuple(
            replace(
                a,
                entries=_join_all(a.entries, b.entries, None, offset),
                within=a.within + tuple(_moved(together, offset) for together in b.within),
            )
            for a, b in zip(self.slots, other.slots, strict=True)
        )
        operations = tuple(
            replace(
                a,
                entries=_join_all(a.entries, b.entries, NO_AXIS, offset),
                within=a.within + tuple(_moved(together, offset) for together in b.within),
            )
            for a, b in zip(self.operations, other.operations, strict=True)
        )
        added = tuple(dict.fromkeys((*self.added, *other.added)))
        sizes = _join_sizes(self.sizes, other.sizes, offset)
        moved = tuple(replace(gone, groups=_moved(gone.groups, offset)) for gone in other.absent)
        norms = {norm.module: norm for norm in self.norms}
        for norm in other.norms:
            before = norms[norm.module].entries if norm.module in norms else None
            joined = _join(before, norm.entries, offset)
            assert joined is not None
            norms[norm.module] = replace(norm, entries=joined)
        routed = tuple(replace(x, entries=x.entries + offset) for x in other.routed)
        return Coupling(
            slots,
            operations,
            added,
            sizes,
            self.absent + moved,
            tuple(norms.values()),
            self.routed + routed,
        )

    def matches(self, other: Coupling) -> bool:
        """Whether both come from the same model and example."""
        return [(s.names, s.shape) for s in self.slots] == [
            (s.names, s.shape) for s in other.slots
        ] and [(o.name, o.flops) for o in self.operations] == [
            (o.name, o.flops) for o in other.operations
        ]


def _moved(groups: tuple[int, ...], offset: int) -> tuple[int, ...]:
    return tuple(group + offset for group in groups)


def _join_sizes(a: tuple[Size, ...], b: tuple[Size, ...], offset: int) -> tuple[Size, ...]:
    found = {(size.module, size.attribute): size for size in a}
    for size in b:
        key = (size.module, size.attribute)
        before = found[key].entries if key in found else None
        joined = _join(before, size.entries, offset)
        assert joined is not None
        found[key] = replace(size, entries=joined)
    return tuple(found.values())


def _join_all(a: tuple[Any, ...], b: tuple[Any, ...], missing: Any, offset: int) -> tuple[Any, ...]:
    return tuple(_join(x, y, offset) for x, y in zip_longest(a, b, fillvalue=missing))


def _join(a: np.ndarray | None, b: np.ndarray | None, offset: int) -> np.ndarray | None:
    if b is None:
        return a
    b = np.where(b >= 0, b + offset, -1)
    return b if a is None else np.where(a >= 0, a, b)


@dataclass(frozen=True)
class Norm:
    """A normalisation over an axis of which groups may leave.

    Attributes:
        module: its name.
        dim: the axis in its input, counted from the end (-1 is the last).
        entries: the group of every index along the axis (-1: none).
        recipe: how it follows.
    """

    module: str
    dim: int
    entries: np.ndarray
    recipe: Recipe

    def kept(self, dead: np.ndarray) -> tuple[int, ...]:
        """The indices that stay."""
        return tuple(np.flatnonzero(~np.append(dead, False)[self.entries]).tolist())
