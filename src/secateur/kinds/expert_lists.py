"""Experts: the parallel members of a mixture, which a router weighs."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.groups.admission import admitted
from secateur.groups.groups import Groups
from secateur.groups.leaving import from_branches
from secateur.groups.listed import find_listed
from secateur.groups.record import record
from secateur.groups.select import Ignore, build, ignored_names, nothing_found
from secateur.groups.stacks import find_stacks, group_stacks


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
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
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
    model = admitted(model, seen="experts")
    trace, run = record(model, example)
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
