"""From labels to coupled axes: which channels live and die together, what is protected and why.

In: the labels after a run. Out: a `Trace`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.tracing.labels import Labels, Operator, Tracked, components, varied
from secateur.tracing.size_attributes import Sized
from secateur.tracing.statistics import Statistic
from secateur.utils.name_trees import Row, folded, names, owner_of, table, tied_to, tree


@dataclass(frozen=True)
class Axis:
    """A set of coupled channels that are produced by the same parameters.

    Attributes:
        name: the module that produces the axis first, such as "layer1.0.conv1".
        components: the channels, as numbers of connected components of atoms, shape (channels,).
        producers: parameter names whose slices must be zero for a channel to be zero.
        roles: how the axis is produced: "filter", "linear"; "attention" if a product of activations
            reads it.
        protected: why no channel of the axis may be removed, or "".
        mixed: what a statistic does to its channels, or ""; `protected` says the same where nothing
            else protects it (stream_width.py).
        inexact: why the removal of its channels changes what is computed, or "".
    """

    name: str
    components: np.ndarray
    producers: tuple[str, ...]
    roles: frozenset[str]
    protected: str = ""
    mixed: str = ""
    inexact: str = ""

    def __len__(self) -> int:
        return len(self.components)


@dataclass(frozen=True)
class Trace:
    """The coupled axes of a model.

    Attributes:
        tracked: parameters and buffers, with the first atom of each dimension.
        component: the connected component of every atom, shape (atoms,).
        produces: whether an atom is a slice that must be zero, shape (atoms,).
        axes: the coupled axes, protected ones included.
        operators: what costs FLOPs.
        unknown: operators without a rule, with the number of calls.
        unreached: parameters that the run never used.
        sizes: attributes of modules that hold the size of an axis.
        statistics: what is taken over axes whose channels it mixes.
    """

    tracked: tuple[Tracked, ...]
    component: np.ndarray
    produces: np.ndarray
    axes: tuple[Axis, ...]
    operators: tuple[Operator, ...]
    unknown: Mapping[str, int]
    unreached: tuple[str, ...]
    sizes: tuple[Sized, ...] = ()
    statistics: tuple[Statistic, ...] = ()

    @property
    def unknown_words(self) -> str:
        """The operators without a rule, and how often each is called; empty where all have one."""
        return ", ".join(f"{name} ({count})" for name, count in self.unknown.items())

    def __str__(self) -> str:
        free = [axis for axis in self.axes if not axis.protected]
        kept = [axis for axis in self.axes if axis.protected]
        lines = [_headline(free, "coupled")]
        lines += _tree_of(
            Row(axis.name, len(axis), (_after("with ", tied_to(axis.name, axis.producers)),))
            for axis in free
        )
        if kept:
            lines.append(_headline(kept, "protected"))
            lines += _tree_of(Row(axis.name, len(axis), (axis.protected,)) for axis in kept)
        if self.unknown:
            lines.append(f"operators without a rule: {self.unknown_words}")
        if self.unreached:
            lines.append(f"parameters the example never reaches: {names(self.unreached, 12)}")
        return "\n".join(lines)


def _headline(axes: Sequence[Axis], what: str) -> str:
    plural = "axis" if len(axes) == 1 else "axes"
    return f"{len(axes)} {what} {plural}, {sum(map(len, axes)):,} channels"


def _tree_of(rows: Iterable[Row]) -> list[str]:
    lines = [
        (f"  {label}", row.count if row else "", row.words[0] if row else "")
        for label, row in tree(folded(rows))
    ]
    return table(lines, right=(1,)) if lines else []


def _after(words: str, text: str) -> str:
    return words + text if text else ""


def _straighten_choices(labels: Labels) -> None:
    """A plane that varies along several dimensions can be cut along one only: the largest stays."""
    component = np.append(components(labels.atom_count, labels.ties), -1)
    for plane in labels.choices:
        numbers = component[plane.numpy()]
        distinct = {
            dim: len(np.unique(np.moveaxis(numbers, dim, 0).reshape(plane.shape[dim], -1), axis=0))
            for dim in varied(plane)
        }
        labels.straighten(plane, [max(distinct, key=lambda dim: (distinct[dim], dim))])


def axes_of(labels: Labels, used: set[int]) -> Trace:
    _straighten_choices(labels)
    component = components(labels.atom_count, labels.ties)
    reasons = _reasons(labels.protected, component)
    mixed = _reasons(labels.inexact, component)
    produces = _produces(labels) | _among(component, labels.roles.get("shared", []))
    tracked = tuple(labels.tracked)
    return Trace(
        tracked=tracked,
        component=component,
        produces=produces,
        axes=tuple(_axes(labels, component, produces, reasons, mixed, used)),
        operators=tuple(labels.operators),
        unknown=dict(labels.unknown),
        unreached=tuple(
            item.name for item in tracked if item.is_parameter and id(item.tensor) not in used
        ),
    )


def _reasons(found: list[tuple[np.ndarray, str]], component: np.ndarray) -> dict[int, str]:
    """Why each component may not be removed (the first reason found)."""
    reasons: dict[int, str] = {}
    for atoms, reason in found:
        for number in np.unique(component[atoms]).tolist():
            reasons.setdefault(number, reason)
    return reasons


def _produces(labels: Labels) -> np.ndarray:
    """An atom produces unless its slice is only ever read along a contracted axis.

    Weights computed from other weights pass their role on to them.
    """
    family = components(labels.atom_count, labels.weight_ties)
    flags = {}
    for role in ("consumer", "producer"):
        flag = np.zeros(family.max(initial=-1) + 1, bool)
        for atoms in labels.roles.get(role, []):
            flag[family[atoms]] = True
        flags[role] = flag[family]
    return flags["producer"] | ~flags["consumer"]


def _among(component: np.ndarray, found: list[np.ndarray]) -> np.ndarray:
    """Whether an atom is in the same component as one of `found`, shape (atoms,).

    Query heads that share one key/value head are not zero where their own weights are: what reads
    them has to be zero too.
    """
    numbers = component[np.concatenate(found)] if found else np.array([], int)
    return np.isin(component, numbers)


def _axes(
    labels: Labels,
    component: np.ndarray,
    produces: np.ndarray,
    reasons: dict[int, str],
    mixed: dict[int, str],
    used: set[int],
) -> Iterator[Axis]:
    """Components made by the same weights form an axis, in the order of the parameters.

    So every weight is as wide as its axes together, and none is empty while each axis has a channel
    left: where two layers are concatenated and added to a third, there are two axes.
    """
    slots = _producing_slots(labels, component, produces, used)
    axis_of = _same_makers(slots, component.max(initial=-1) + 1)
    members: dict[int, list[tuple[Tracked, np.ndarray]]] = {}
    for item, numbers, _ in sorted(slots, key=lambda slot: not slot[2]):
        for number in dict.fromkeys(axis_of[numbers].tolist()):
            members.setdefault(number, []).append((item, numbers[axis_of[numbers] == number]))
    roles = {
        role: {int(n) for atoms in found for n in np.unique(axis_of[component[atoms]])}
        for role, found in labels.roles.items()
    }
    state = np.zeros(len(axis_of), int)  # 0: free, 1: only mixed by a statistic, 2: protected
    state[list(mixed)] = 1
    state[list(reasons)] = 2
    taken: set[str] = set()
    for number, slices in members.items():
        components = np.array(list(dict.fromkeys(n for _, ns in slices for n in ns.tolist())))
        made_by = [item.name for item, _ in slices]
        names = [*map(owner_of, made_by), *made_by, f"{made_by[0]}+{number}"]
        name = next(name for name in names if name not in taken)
        taken.add(name)
        for kind in range(3):
            part = components[state[components] == kind]
            if len(part):
                first = int(part[0])
                yield Axis(
                    name=name,
                    components=part,
                    producers=tuple(dict.fromkeys(item.name for item, _ in slices)),
                    roles=frozenset(role for role, axes in roles.items() if number in axes),
                    protected=reasons.get(first) or mixed.get(first, ""),
                    mixed=next(filter(None, map(mixed.get, part.tolist())), ""),
                )


_Slot = tuple[Tracked, np.ndarray, bool]  # a parameter, its components along a dimension, is maker


def _producing_slots(
    labels: Labels, component: np.ndarray, produces: np.ndarray, used: set[int]
) -> list[_Slot]:
    """The dimensions of parameters along which a zero slice makes a zero channel.

    Makers are the convolutions and linear layers; what follows them (biases, scales, depthwise
    kernels) is not.
    """
    makers = np.zeros(labels.atom_count, bool)
    for atoms in [*labels.roles.get("filter", []), *labels.roles.get("linear", [])]:
        makers[atoms] = True
    slots = []
    for item in labels.tracked:
        if item.is_parameter and id(item.tensor) in used:
            for dim in range(item.tensor.ndim):
                atoms = item.atoms(dim)
                if item.first_atoms[dim] >= 0 and produces[atoms].all():
                    slots.append((item, component[atoms], bool(makers[atoms].any())))
    return slots


def _same_makers(slots: list[_Slot], count: int) -> np.ndarray:
    """Number the sets of makers; shape (components,). What no maker makes goes by all its slots."""
    made = np.zeros(count, bool)
    for _, numbers, is_maker in slots:
        made[numbers] |= is_maker
    draw = np.random.default_rng(0)
    signature = np.zeros(count, np.uint64)  # a set is the exclusive or of its members' numbers
    for _, numbers, is_maker in slots:
        numbers = np.unique(numbers if is_maker else numbers[~made[numbers]])
        signature[numbers] ^= draw.integers(1, 2**63, dtype=np.uint64)
    return np.unique(signature, return_inverse=True)[1]
