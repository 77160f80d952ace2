"""How a small model is cut out of a full-size one: which indices stay, which sizes change.

In: a coupling and which groups are dead. Out: a `Plan`, which knows no tensor: it can be stored,
and followed on any model of the full size (cut.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from torch import nn

from secateur.groups.coupling import Coupling
from secateur.groups.layer import Layer
from secateur.surgery.forward_wrappers import Places, combined, new_places
from secateur.surgery.head_sizes import Sizes
from secateur.surgery.module_removal import Replacement, name_before
from secateur.surgery.norms import Numbers
from secateur.utils.forward import unwrapped

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How a small model was cut out of a full-size one.

    Attributes:
        kept: for each parameter or buffer that was cut, the indices kept along each cut dimension.
        biases: biases that the full-size model lacks and the small one needs.
        groups: kind of group -> (groups kept, groups in all).
        sizes: module -> the attributes of it that hold a size, with their new values.
        reshaped: modules whose code has to follow the width of its heads, and the size of a head
            (forward_wrappers.py).
        absent: modules that leave whole, and what takes their place (module_removal.py).
        norms: normalisation -> its attributes that have another value, such as eps (norms.py).
        rerouted: modules with stacked experts -> new places of experts (forward_wrappers.py).
        difference: by how much the small network's outputs differ, relative to their scale, where
            it was not to be exact; the largest of several cuts.
        full: measure -> what the network cost that the last cut was made in.
    """

    kept: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=dict)
    reshaped: dict[str, int] = field(default_factory=dict)
    absent: dict[str, Replacement] = field(default_factory=dict)
    norms: Numbers = field(default_factory=dict)
    difference: float = 0.0
    rerouted: dict[str, Places] = field(default_factory=dict)
    full: dict[str, int] = field(default_factory=dict)

    @property
    def out(self) -> tuple[str, ...]:
        """The blocks that leave their lists."""
        return tuple(name for name, recipe in self.absent.items() if recipe["kind"] == "out")

    def meet(self, other: Plan) -> Plan:
        """The plan that cuts what either cuts out of the same model; the groups are ours."""
        kept = {name: dict(dims) for name, dims in self.kept.items()}
        for name, dims in other.kept.items():
            for dim, theirs in dims.items():
                mine = kept.setdefault(name, {}).get(dim, theirs)
                kept[name][dim] = tuple(sorted(set(mine) & set(theirs)))
        return replace(self, kept=kept)

    def after(self, earlier: Plan | None) -> Plan:
        """The one plan that does what `earlier` and then this one do."""
        if earlier is None:
            return self
        self = self._named_as_before(earlier.out)
        kept = {name: dict(dims) for name, dims in earlier.kept.items()}
        for name, dims in self.kept.items():
            if name in earlier.biases:
                continue  # the full-size model lacks it; it is made at its final size
            for dim, indices in dims.items():
                before = kept.setdefault(name, {}).get(dim)
                chosen = indices if before is None else tuple(before[i] for i in indices)
                kept[name][dim] = chosen
        groups = {
            kind: (count, earlier.groups.get(kind, (0, total))[1])
            for kind, (count, total) in self.groups.items()
        }
        sizes = {name: dict(values) for name, values in earlier.sizes.items()}
        for name, values in self.sizes.items():
            sizes.setdefault(name, {}).update(values)
        biases = (*earlier.biases, *self.biases)
        reshaped = {**earlier.reshaped, **self.reshaped}
        absent = {**earlier.absent, **self.absent}
        norms = {name: dict(values) for name, values in earlier.norms.items()}
        for name, values in self.norms.items():
            norms.setdefault(name, {}).update(values)
        difference = max(earlier.difference, self.difference)
        groups = {**earlier.groups, **groups}
        rerouted = dict(earlier.rerouted)
        for name, places in self.rerouted.items():
            rerouted[name] = combined(rerouted[name], places) if name in rerouted else places
        full = self.full or earlier.full
        return Plan(
            kept, biases, groups, sizes, reshaped, absent, norms, difference, rerouted, full
        )

    def _named_as_before(self, blocks: Collection[str]) -> Plan:
        """The plan for a model from whose lists `blocks` have not left yet."""

        def renamed(named: dict[str, T]) -> dict[str, T]:
            return {name_before(name, blocks): value for name, value in named.items()}

        return replace(
            self,
            kept=renamed(self.kept),
            biases=tuple(name_before(name, blocks) for name in self.biases),
            sizes=renamed(self.sizes),
            reshaped=renamed(self.reshaped),
            absent=renamed(self.absent),
            norms=renamed(self.norms),
            rerouted=renamed(self.rerouted),
        )


def plan_of(model: nn.Module) -> Plan | None:
    """The plan that a small network was cut by, which it carries; None for any other network."""
    return getattr(unwrapped(model), "secateur", None)


def planned(coupling: Coupling | None, layers: Sequence[Layer], dead: np.ndarray) -> Plan:
    """The plan that cuts the dead groups, bool of shape (m,), out of what `coupling` ties."""
    padded = np.append(dead, False)  # the last entry answers for "no group" (-1)
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    for slot in coupling.slots if coupling else ():
        for dim, entries in enumerate(slot.entries):
            if entries is not None and padded[entries].any():
                indices = tuple(np.flatnonzero(~padded[entries]).tolist())
                for name in slot.names:
                    kept.setdefault(name, {})[dim] = indices
    counts: dict[str, tuple[int, int]] = {}
    for layer in layers:
        alive, total = counts.get(layer.kind, (0, 0))
        left = int((~dead[layer.span]).sum())
        counts[layer.kind] = (alive + left, total + len(layer))
    sizes: dict[str, dict[str, int]] = {}
    for size in coupling.sizes if coupling else ():
        if padded[size.entries].any():
            sizes.setdefault(size.module, {})[size.attribute] = int((~padded[size.entries]).sum())
    absences = coupling.absent if coupling else ()
    leaving = [gone for gone in absences if dead[list(gone.groups)].all()]
    absent = {gone.module: gone.recipe for gone in leaving}
    rerouted = {
        item.module: new_places((~dead[item.entries]).tolist(), item.gone)
        for item in (coupling.routed if coupling else ())
        if dead[item.entries].any()
    }
    return Plan(kept, (), counts, sizes, absent=absent, rerouted=rerouted)
