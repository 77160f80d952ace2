"""Groups of parts that leave whole: what residual branches and experts have in common.

In: branches, with what makes each zero and which modules go with it. Out: `Groups` of those that a
trial removal finds exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.groups.absent import is_inside
from secateur.groups.branches import Branch
from secateur.groups.coupling import Absence, Coupling
from secateur.groups.groups import Groups, Layer
from secateur.groups.members import Member
from secateur.groups.select import build, ignored_names, kept_by, nothing_found
from secateur.groups.trace import Trace
from secateur.groups.trial import try_removal

Sets = tuple[tuple[int, ...], ...]
Found = Sequence[tuple[str, Branch]]  # the layer that a branch belongs to, and the branch


def from_branches(
    model: nn.Module, example: Any, trace: Trace, found: Found, *, kind: str, ignore: Any
) -> Groups:
    """One group a branch; those of one layer come one after the other.

    Raises:
        ValueError: an unknown name in `ignore`, or no branch can leave (the reasons are listed).
    """
    ignored = ignored_names(model, ignore)
    refused: list[tuple[str, int, str]] = []
    kept: list[tuple[str, Branch]] = []
    for layer, branch in found:
        reason = branch.reason or kept_by(model, branch.zeros, ignored)
        if reason:
            refused.append((branch.name, 1, reason))
        else:
            kept.append((layer, branch))
    example = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, example)
    blank = build(trace, [], kind, (), example).coupling
    assert blank is not None
    if kept:
        groups = _grouped(model, blank, kept, kind, refused, example)
        failed, _ = try_removal(model, groups, list(np.eye(len(kept), dtype=bool)))
        refused += [(kept[n][1].name, 1, reason) for n, reason in failed.items()]
        kept = [pair for n, pair in enumerate(kept) if n not in failed]
    if not kept:
        raise ValueError(nothing_found(model, kind, refused))
    return _grouped(model, blank, kept, kind, refused, example)


def _grouped(
    model: nn.Module,
    blank: Coupling,
    found: Found,
    kind: str,
    refused: Sequence[tuple[str, int, str]],
    example: Any,
) -> Groups:
    branches = [branch for _, branch in found]
    members = []
    for group, branch in enumerate(branches):
        for name in branch.zeros:
            parameter = model.get_parameter(name)
            ids = torch.full((1,) * parameter.ndim, group, device=parameter.device)
            members.append(Member(name, parameter, ids))
    slots = tuple(
        replace(slot, within=_where(branches, lambda branch, slot=slot: _holds(branch, slot.names)))
        for slot in blank.slots
    )
    operations = tuple(
        replace(operation, within=_where(branches, lambda branch, n=n: n in branch.operators))
        for n, operation in enumerate(blank.operations)
    )
    absent = tuple(
        Absence((group,), module, recipe)
        for group, branch in enumerate(branches)
        for module, recipe in branch.absent.items()
    )
    layers = []
    for name in dict.fromkeys(layer for layer, _ in found):
        numbers = [n for n, (layer, _) in enumerate(found) if layer == name]
        mine = [branches[n] for n in numbers]
        producers = tuple(zero for branch in mine for zero in branch.zeros)
        parts = tuple(branch.name for branch in mine)
        layers.append(Layer(name, kind, numbers[0], numbers[-1] + 1, producers, parts=parts))
    coupling = Coupling(slots, operations, absent=absent)
    return Groups(tuple(members), tuple(layers), coupling, tuple(refused), example, model=model)


def _holds(branch: Branch, names: Sequence[str]) -> bool:
    return all(is_inside(name, branch.absent) for name in names)


def _where(branches: Sequence[Branch], holds: Callable[[Branch], bool]) -> Sets:
    return tuple((group,) for group, branch in enumerate(branches) if holds(branch))
