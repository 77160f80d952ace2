"""Experts that are modules of one list, side by side.

In: the record of a run. Out: a `Branch` for each expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from secateur.groups.ancestors import Ancestors
from secateur.groups.branches import Branch, branch_of
from secateur.groups.record import ModuleCall, Record
from secateur.groups.vanishing import made_zero, unneeded


def find_listed(model: nn.Module, run: Record) -> Iterator[tuple[str, Branch]]:
    """The modules of each nn.ModuleList that work side by side: (list, expert), in order."""
    consumers, readers = run.consumers(), run.readers()
    ancestors, unread = Ancestors(run), unneeded(run, consumers, ())
    for owner, modules in model.named_modules():
        if not isinstance(modules, nn.ModuleList) or not _are_alike(modules):
            continue
        names = [f"{owner}.{child}" if owner else child for child, _ in modules.named_children()]
        calls = [[call for call in run.calls if call.module == name] for name in names]
        results = [found[0].result for found in calls if found]
        if len(results) < 2 or any(
            ancestors.has(a, b) for a in results if isinstance(a, int) for b in results
        ):
            continue  # one after the other: blocks of a chain
        for name, found in zip(names, calls, strict=True):
            yield owner, _expert(model, run, name, found, consumers, readers, unread)


def _expert(
    model: nn.Module,
    run: Record,
    name: str,
    calls: list[ModuleCall],
    consumers: list[list[int]],
    readers: dict[str, list[int]],
    unread: set[int],
) -> Branch:
    zero = made_zero(run, calls[0].result) if len(calls) == 1 else None
    if zero is None:
        reasons = {0: "the example never reaches it", 1: "no parameters make its output zero"}
        return Branch(name, (), {}, frozenset(), reasons.get(len(calls), "it is called repeatedly"))
    dead = unneeded(run, consumers, zero.steps)
    branch = branch_of(model, run, zero, dead, dead - unread)
    elsewhere = any(reader not in dead for p in zero.parameters for reader in readers[p])
    if elsewhere or not all(f"{p}.".startswith(f"{name}.") for p in zero.parameters):
        return replace(branch, name=name, reason="what makes it zero is not its own")
    if calls[0].result in run.outputs:
        return replace(branch, name=name, reason="its output leaves the model")
    if name not in branch.absent:
        return replace(branch, name=name, reason="it could not be left out whole")
    return replace(branch, name=name)


def _are_alike(modules: nn.ModuleList) -> bool:
    shapes = [[tuple(p.shape) for p in module.parameters()] for module in modules]
    return len(shapes) > 1 and bool(shapes[0]) and all(found == shapes[0] for found in shapes)
