"""Groups of parts that leave whole: what residual branches and experts have in common.

In: branches, with what makes each zero and which modules go with it. Out: `Groups` of those that a
trial removal finds exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.groups.coupling import Absence, Coupling
from secateur.groups.groups import Groups
from secateur.groups.layer import Layer
from secateur.groups.member import Member
from secateur.kinds.build import build, ignored_names, kept_by, nothing_found
from secateur.kinds.identity_blocks import IdentityBlock, find_identity_blocks
from secateur.kinds.residual import Branch
from secateur.surgery.module_removal import Replacement
from secateur.surgery.trial import try_removal
from secateur.tracing.axes import Trace
from secateur.tracing.graph import Graph
from secateur.utils.name_trees import is_inside

Sets = tuple[tuple[int, ...], ...]
Found = Sequence[tuple[str, Branch]]  # the layer that a branch belongs to, and the branch
Refused = list[tuple[str, int, str]]


def from_branches(
    model: nn.Module,
    example: Any,
    trace: Trace,
    found: Found,
    *,
    kind: str,
    ignore: Any,
    run: Graph | None = None,
) -> Groups:
    """One group a branch; those of one layer come one after the other.

    With `run`, the blocks around them leave with their last branch (identity_blocks.py).

    Raises:
        ValueError: an unknown name in `ignore`, or no branch can leave (the reasons are listed).
    """
    ignored = ignored_names(model, ignore)
    refused: Refused = []
    kept: list[tuple[str, Branch]] = []
    for layer, branch in found:
        reason = branch.reason or kept_by(model, branch.zeros, ignored)
        if reason:
            refused.append((branch.name, 1, reason))
        else:
            kept.append((layer, branch))
    example = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, example)
    blank = build(trace, [], kind, (), example)
    if kept:
        groups = _grouped(model, blank, kept, kind)
        failed, _ = try_removal(model, groups, list(np.eye(len(kept), dtype=bool)))
        refused += [(kept[n][1].name, 1, reason) for n, reason in failed.items()]
        kept = [pair for n, pair in enumerate(kept) if n not in failed]
    if not kept:
        raise ValueError(nothing_found(model, kind, refused, trace))
    shells: list[IdentityBlock] = []
    if run is not None:

        def grouped(shells: Sequence[IdentityBlock]) -> Groups:
            return _grouped(model, blank, kept, kind, shells)

        shells, staying = find_identity_blocks(model, run, [branch for _, branch in kept], grouped)
        refused += staying
    return replace(_grouped(model, blank, kept, kind, shells), refused=tuple(refused))


def _grouped(
    model: nn.Module, blank: Groups, found: Found, kind: str, shells: Sequence[IdentityBlock] = ()
) -> Groups:
    branches = [branch for _, branch in found]
    members = []
    for group, branch in enumerate(branches):
        for name in branch.zeros:
            parameter = model.get_parameter(name)
            ids = torch.full((1,) * parameter.ndim, group, device="cpu")
            members.append(Member(name, parameter, ids))
    leaving = [((n,), branch.absent, branch.operators) for n, branch in enumerate(branches)]
    leaving += [(s.groups, {s.module: s.recipes[0]}, s.operators) for s in shells]
    layers = []
    for name in dict.fromkeys(layer for layer, _ in found):
        numbers = [n for n, (layer, _) in enumerate(found) if layer == name]
        mine = [branches[n] for n in numbers]
        producers = tuple(zero for branch in mine for zero in branch.zeros)
        parts = tuple(branch.name for branch in mine)
        layers.append(Layer(name, kind, numbers[0], numbers[-1] + 1, producers, parts=parts))
    assert blank.coupling is not None
    coupling = _coupled(blank.coupling, leaving)
    return Groups(
        tuple(members),
        tuple(layers),
        coupling,
        (),
        blank.example,
        model=model,
        untried=blank.untried,
    )


Leaving = tuple[tuple[int, ...], Mapping[str, Replacement], frozenset[int]]


def _coupled(blank: Coupling, leaving: Sequence[Leaving]) -> Coupling:
    """Where groups sit that take modules and operators with them, when all of them go."""
    slots = tuple(
        replace(
            slot,
            within=_smallest(
                groups
                for groups, modules, _ in leaving
                if all(is_inside(name, modules) for name in slot.names)
            ),
        )
        for slot in blank.slots
    )
    operations = tuple(
        replace(
            operation,
            within=_smallest(groups for groups, _, operators in leaving if n in operators),
        )
        for n, operation in enumerate(blank.operations)
    )
    absent = tuple(
        Absence(groups, module, recipe)
        for groups, modules, _ in leaving
        for module, recipe in modules.items()
    )
    return Coupling(slots, operations, absent=absent)


def _smallest(sets: Iterable[tuple[int, ...]]) -> Sets:
    """The sets without those that contain another one: they say nothing more."""
    kept: list[tuple[int, ...]] = []
    for groups in sorted(set(sets), key=len):
        if not any(set(other) <= set(groups) for other in kept):
            kept.append(groups)
    return tuple(kept)
