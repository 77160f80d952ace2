"""What is left of a block when all of its branches are dead: nothing, if it passes its input on.

In: a model, its recorded run and groups of its branches. Out: for each module that is then an
identity, which branches it takes and what takes its place: a shorter list, or a module that returns
its input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.groups.groups import Groups
from secateur.kinds.residual import Branch
from secateur.surgery.module_removal import Replacement, is_in_list
from secateur.surgery.trial import try_removal
from secateur.tracing.graph import Graph
from secateur.utils.contexts import preserve_state, unfused_ops
from secateur.utils.forward import arguments
from secateur.utils.name_trees import is_inside

OUT: Replacement = {"kind": "out"}
MOST = 6  # branches of one block: what they share costs a sum over all subsets of them


@dataclass(frozen=True)
class IdentityBlock:
    """A module that does nothing once some branches are dead.

    Attributes:
        module: its name.
        groups: the branches inside of it.
        operators: which of the trace's operators run inside of it.
        recipes: what may take its place, the best first.
    """

    module: str
    groups: tuple[int, ...]
    operators: frozenset[int]
    recipes: tuple[Replacement, ...]


def find_identity_blocks(
    model: nn.Module,
    run: Graph,
    branches: Sequence[Branch],
    grouped: Callable[[Sequence[IdentityBlock]], Groups],
) -> tuple[list[IdentityBlock], list[tuple[str, int, str]]]:
    """The modules that leave with their last branch, and those that don't although they could.

    Args:
        model: left as it was.
        run: its recorded run.
        branches: its groups, in their order.
        grouped: makes the groups of the branches and of shells, whose first recipe counts.

    Returns:
        Shells with one recipe each, found right by trial removals; and (module, 1, reason).
    """
    good: list[IdentityBlock] = []
    places = _places(run, branches)
    passing = _passing(model, grouped([]), places.keys())
    found = list(_candidates(model, run, places, passing))
    refused = list(_doing_more(model, places, passing))
    for level in _from_the_inside(found):  # an outer shell would hide what an inner one does
        trying = level
        while trying:
            failed = _failing(model, grouped([*good, *trying]), trying)
            good += [shell for n, shell in enumerate(trying) if n not in failed]
            refused += [
                (trying[n].module, 1, f"it stays around its dead branches: {reason}")
                for n, reason in failed.items()
                if len(trying[n].recipes) == 1
            ]
            trying = [replace(trying[n], recipes=trying[n].recipes[1:]) for n in failed]
            trying = [shell for shell in trying if shell.recipes]
    return sorted(good, key=lambda shell: shell.groups), refused


def _from_the_inside(shells: Sequence[IdentityBlock]) -> list[list[IdentityBlock]]:
    """Shells by how deep others are nested in them, those with none first."""

    def height(shell: IdentityBlock) -> int:
        inner = [x for x in shells if x is not shell and is_inside(x.module, [shell.module])]
        return max((1 + height(other) for other in inner), default=0)

    heights = [height(shell) for shell in shells]
    return [[x for x, h in zip(shells, heights, strict=True) if h == n] for n in sorted({*heights})]


def _failing(model: nn.Module, groups: Groups, shells: Sequence[IdentityBlock]) -> dict[int, str]:
    """Which shells can't be removed: every other one, among living neighbours, and all of them."""
    parts = [np.isin(np.arange(len(groups)), shell.groups) for shell in shells]
    failed: dict[int, str] = {}
    every = range(len(shells))
    for numbers in (every[::2], every[1::2], every):
        mine = [n for n in numbers if n not in failed]
        if mine:
            found, _ = try_removal(model, groups, [parts[n] for n in mine])
            failed |= {mine[n]: reason for n, reason in found.items()}
    return failed


def _places(run: Graph, branches: Sequence[Branch]) -> dict[str, set[int]]:
    """The modules that hold branches as a whole, and which."""
    places: dict[str, set[int]] = {}
    for name in dict.fromkeys(call.module for call in run.calls if call.module):
        touched = [
            number
            for number, branch in enumerate(branches)
            if any(is_inside(module, [name]) for module in branch.absent)
        ]
        whole = all(is_inside(module, [name]) for n in touched for module in branches[n].absent)
        absent = any(is_inside(name, branch.absent) for branch in branches)
        if touched and whole and not absent and len(touched) <= MOST:
            places[name] = set(touched)
    return places


def _doing_more(
    model: nn.Module, places: Collection[str], passing: Collection[str]
) -> Iterator[tuple[str, int, str]]:
    """The blocks of lists that are no identity without their branches, as one entry."""
    blocks = [name for name in places if is_in_list(model, name) and _has_equals(model, name)]
    outer = [name for name in blocks if not is_inside(name, set(blocks) - {name})]
    found = [name for name in outer if name not in passing]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield found[0] + more, len(found), "without its branches a block does more than pass on"


def _candidates(
    model: nn.Module,
    run: Graph,
    places: dict[str, set[int]],
    passing: dict[str, Replacement | None],
) -> Iterator[IdentityBlock]:
    """What may leave of the modules that pass their inputs on when all branches are dead."""
    in_lists = [name for name in passing if is_in_list(model, name)]
    for name, recipe in passing.items():
        around = [other for other in in_lists if other != name and is_inside(name, [other])]
        inner = [other for other in in_lists if other != name and is_inside(other, [name])]
        recipes = [recipe] if recipe else []
        if name in in_lists:
            if around and not _has_equals(model, name):
                continue  # a part of a block, which leaves with it
            recipes = [OUT, *recipes]
        elif around or set().union(*(places[other] for other in inner)) >= places[name]:
            continue
        if recipes:
            steps = [run.steps[n] for call in run.calls if call.module == name for n in call.steps]
            operators = frozenset(number for step in steps for number in step.operators)
            yield IdentityBlock(name, tuple(sorted(places[name])), operators, tuple(recipes))


def _has_equals(model: nn.Module, name: str) -> bool:
    """Whether a list holds modules of one class only."""
    blocks = model.get_submodule(name.rpartition(".")[0])
    return len({type(block) for block in blocks.children()}) == 1


@torch.no_grad()
def _passing(
    model: nn.Module, groups: Groups, names: Collection[str]
) -> dict[str, Replacement | None]:
    """Of the modules that `names` names, those that pass an input on, with their recipes if any."""
    zeroed = copy.deepcopy(model)
    groups.on(zeroed).scale_(torch.zeros(len(groups)))
    found: dict[str, list[Replacement | bool]] = {}
    given: dict[str, list[list[Tensor]]] = {name: [] for name in names}

    def enter(_: nn.Module, args: Any, kwargs: Any, name: str) -> None:
        inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        given[name].append([x.clone() for x in inputs])

    def leave(_: nn.Module, args: Any, output: Any, name: str) -> None:
        found.setdefault(name, []).append(_identity(given[name].pop(), output))

    for name in names:
        module = zeroed.get_submodule(name)
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: enter(module, args, kwargs, name),
            with_kwargs=True,
        )
        module.register_forward_hook(
            lambda module, args, output, name=name: leave(module, args, output, name)
        )
    args, kwargs = arguments(groups.example)
    with preserve_state(zeroed), unfused_ops():
        zeroed(*args, **kwargs)
    return {
        name: None if calls[0] is True else calls[0]
        for name, calls in found.items()
        if len(calls) == 1 and calls[0]
    }


def _identity(inputs: Sequence[Tensor], output: Any) -> Replacement | bool:
    """The recipe of what only passes its inputs on, or whether its first result is an input."""
    items = [output] if isinstance(output, Tensor) else output
    if type(items) not in (tuple, list):
        return False
    like: list[list[int] | None] = []
    for item in items:
        same = [n for n, x in enumerate(inputs) if isinstance(item, Tensor) and _equal(x, item)]
        if item is not None and not same:
            return bool(like and like[0])
        like.append([same[0]] if same else None)
    kind = "tensor" if isinstance(output, Tensor) else type(output).__name__
    return {"kind": kind, "like": like} if like and like[0] else False


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
