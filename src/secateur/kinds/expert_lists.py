"""Experts: the parallel members of a mixture, which a router weighs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.groups.groups import Groups
from secateur.kinds.build import Ignore, build, ignored_names, nothing_found
from secateur.kinds.expert_stacks import find_stacks, group_stacks
from secateur.kinds.residual import Branch, branch_of
from secateur.kinds.whole_modules import from_branches
from secateur.tracing.dead_code import made_zero, unneeded
from secateur.tracing.graph import Ancestors, Graph, ModuleCall, record_graph
from secateur.tracing.model_checks import check_model
from secateur.utils.name_trees import is_inside


def experts(
    model: nn.Module, example: Any, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()
) -> Groups:
    """Group the experts of mixtures: modules of one nn.ModuleList, or slices of stacked parameters.

    A group is one expert: the parameters nearest to its output that make it zero, such as its last
    projection with its bias. It is dead when these are zero. Removing it removes the whole expert;
    the router stays as it is, with its output for the missing expert, so that the weights of the
    others don't change, and what is routed to the missing one is zero. So removal is exact whatever
    the router does (softmax over all, the best few, any normalisation).

    Experts are the modules of a list that work side by side, or the slices along the first
    dimension of three-dimensional parameters, in a module that is given which experts are chosen,
    with which weights (as in transformers). A stack gets shorter, and the indices that the module
    is given are translated; those of missing experts lead past the end where the module skips
    these, else to the first expert with the weight 0.

    Experts in a list that the example never reaches, that are called more than once, or that share
    a parameter, are refused by name, and so are stacks that choose for themselves. FLOPs are those
    of the example's routing: an operator that multiplies the rows of all experts at once has as
    many rows as before, and a router behind a missing expert may send its tokens elsewhere.

    Args:
        model: any module; it runs in eval mode and is left as it was.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs; or several
            of these in a list, so that all that they reach is followed. Costs are the first's.
        ignore: names, modules or module types whose experts stay.

    Returns:
        One group an expert, one layer a mixture: `Budget(at_least=1)` keeps one expert in each.

    Raises:
        ValueError: an unknown name in `ignore`, or no expert can be removed (the reasons are
            listed).
        RuntimeError: the model does not run on the example.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> class Mixture(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.router = nn.Linear(4, 3)
        ...         self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        ...
        ...     def forward(self, x):
        ...         shares = self.router(x).softmax(-1).unbind(-1)
        ...         outputs = [expert(x) for expert in self.experts]
        ...         return sum(s.unsqueeze(-1) * y for s, y in zip(shares, outputs, strict=True))
        >>> list(sc.experts(Mixture(), torch.ones(2, 4)).names)
        ['experts.0', 'experts.1', 'experts.2']
    """
    model = check_model(model, seen="experts")
    trace, run = record_graph(model, example)
    listed, stacks = list(find_listed(model, run)), list(find_stacks(model, run, example))
    if not stacks:
        return from_branches(model, example, trace, listed, kind="experts", ignore=ignore)
    blank = build(trace, [], "experts", (), example)
    groups = group_stacks(model, stacks, blank, ignored_names(model, ignore))
    if listed:
        groups += from_branches(model, example, trace, listed, kind="experts", ignore=ignore)
    if not len(groups):
        raise ValueError(nothing_found(model, "experts", list(groups.refused), trace))
    return groups


def find_listed(model: nn.Module, run: Graph) -> Iterator[tuple[str, Branch]]:
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
    run: Graph,
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
    if elsewhere or not all(is_inside(p, [name]) for p in zero.parameters):
        return replace(branch, name=name, reason="what makes it zero is not its own")
    if calls[0].result in run.outputs:
        return replace(branch, name=name, reason="its output leaves the model")
    if name not in branch.absent:
        return replace(branch, name=name, reason="it could not be left out whole")
    return replace(branch, name=name)


def _are_alike(modules: nn.ModuleList) -> bool:
    shapes = [[tuple(p.shape) for p in module.parameters()] for module in modules]
    return len(shapes) > 1 and bool(shapes[0]) and all(found == shapes[0] for found in shapes)
