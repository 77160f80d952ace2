"""Layers: depth, one group for each residual branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.groups.absent import is_inside
from secateur.groups.branches import Branch, find_branches
from secateur.groups.coupling import Absence, Coupling
from secateur.groups.groups import Groups, Layer
from secateur.groups.members import Member
from secateur.groups.record import record
from secateur.groups.select import Ignore, build, ignored_names, kept_by, nothing_found
from secateur.groups.trial import try_removal


def layers(
    model: nn.Module, example: Any, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()
) -> Groups:
    """Group the residual branches of a model: its depth.

    A group is one branch f of x + f(x): the parameters nearest to the sum that make f(x) zero, such
    as the last projection with its bias, the last BatchNorm's scale and shift, or a layer scale. It
    is dead when these are zero. Removing it removes every module that only this branch reads, with
    all its parameters, FLOPs and memory; what is left of it are zeros, added to the stream. Removal
    is exact. What several branches read together stays, and so does what the model returns: trace
    a language model with its cache where the small one is to generate with it.

    Branches are refused by name where no module could be left out, where a module is called
    more than once, or where the shape of what it returns doesn't follow from what it is given.

    Args:
        model: any module; it runs in eval mode and is left as it was.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
        ignore: names, modules or module types whose branches stay.

    Returns:
        One group a branch, named after a module of it, in one layer: `Budget(at_least=1)` keeps one
        branch of the whole model.

    Raises:
        ValueError: an unknown name in `ignore`, or no branch can be removed (the reasons are
            listed).
        RuntimeError: the model does not run on the example.

    Example:
        >>> import secateur as sc
        >>> model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        >>> list(sc.layers(model, torch.ones(1, 5, 16)).names)
        ['self_attn', 'linear2']
    """
    ignored = ignored_names(model, ignore)
    found, run = record(model, example)
    refused: list[tuple[str, int, str]] = []
    branches: list[Branch] = []
    for branch in find_branches(model, run):
        reason = branch.reason or kept_by(model, branch.zeros, ignored)
        if reason:
            refused.append((branch.name, 1, reason))
        else:
            branches.append(branch)
    example = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, example)
    blank = build(found, [], "layers", (), example).coupling
    assert blank is not None
    if branches:
        groups = _grouped(model, blank, branches, refused, example)
        failed, _ = try_removal(model, groups, list(np.eye(len(branches), dtype=bool)))
        refused += [(branches[n].name, 1, reason) for n, reason in failed.items()]
        branches = [branch for n, branch in enumerate(branches) if n not in failed]
    if not branches:
        raise ValueError(nothing_found(model, "layers", refused))
    return _grouped(model, blank, branches, refused, example)


def _grouped(
    model: nn.Module,
    blank: Coupling,
    branches: Sequence[Branch],
    refused: Sequence[tuple[str, int, str]],
    example: Any,
) -> Groups:
    members = []
    for group, branch in enumerate(branches):
        for name in branch.zeros:
            parameter = model.get_parameter(name)
            ids = torch.full((1,) * parameter.ndim, group, device=parameter.device)
            members.append(Member(name, parameter, ids))
    slots = tuple(
        replace(slot, within=_holding(branches, lambda branch, s=slot: _holds(branch, s.names)))
        for slot in blank.slots
    )
    operations = tuple(
        replace(
            operation, within=_holding(branches, lambda branch, n=number: n in branch.operators)
        )
        for number, operation in enumerate(blank.operations)
    )
    absent = tuple(
        Absence(group, module, recipe)
        for group, branch in enumerate(branches)
        for module, recipe in branch.absent.items()
    )
    producers = tuple(name for branch in branches for name in branch.zeros)
    parts = tuple(branch.name for branch in branches)
    layer = Layer("layers", "layers", 0, len(branches), producers, parts=parts)
    coupling = Coupling(slots, operations, absent=absent)
    return Groups(tuple(members), (layer,), coupling, tuple(refused), example)


def _holds(branch: Branch, names: Sequence[str]) -> bool:
    return all(is_inside(name, branch.absent) for name in names)


def _holding(branches: Sequence[Branch], holds: Any) -> tuple[int, ...]:
    return tuple(group for group, branch in enumerate(branches) if holds(branch))
