"""Residual branches: what must be zero for a sum to be its other summand, and what goes then.

In: the record of a run. Out: a `Branch` for each sum of a stream and something computed from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.surgery.module_removal import known_by_class
from secateur.tracing.dead_code import NORMS, PASSING, Zero, made_zero, unneeded
from secateur.tracing.graph import WEIGHED, Ancestors, Graph, Node, Origin
from secateur.utils.name_trees import is_inside

_SHORT = {*PASSING, *NORMS, *WEIGHED, "add", "cat"}  # what a shortcut may be made of


@dataclass(frozen=True)
class Branch:
    """A residual branch.

    Attributes:
        name: a module that the branch is computed by.
        zeros: the parameters that make it zero.
        absent: modules that go with it -> how their zeros look (module_removal.py).
        operators: which of the trace's operators are inside them.
        reason: why it can't be removed, or "".
    """

    name: str
    zeros: tuple[str, ...]
    absent: dict[str, dict[str, Any]]
    operators: frozenset[int]
    reason: str = ""


def find_branches(model: nn.Module, run: Graph) -> Iterator[Branch]:
    """The residual branches of a recorded run, in its order."""
    consumers, readers = run.consumers(), run.readers()
    ancestors = Ancestors(run)
    taken: set[str] = set()
    unread = unneeded(run, consumers, ())
    for step in run.steps:
        if not _is_sum(step):
            continue
        for stream, branch in (step.inputs, step.inputs[::-1]):
            if not isinstance(branch, int) or not (
                _feeds(run, ancestors, stream, branch)
                or _is_shortcut(run, ancestors, stream, branch)
            ):
                continue
            for summand in _summands(run, ancestors, branch):
                zero = made_zero(run, summand)
                if zero is None or zero.parameters & taken:
                    continue
                dead = unneeded(run, consumers, zero.steps)
                if all(reader in dead for name in zero.parameters for reader in readers[name]):
                    taken |= zero.parameters
                    yield branch_of(model, run, zero, dead, dead - unread)
            break


def _is_sum(step: Node) -> bool:
    return step.name == "add" and len(step.inputs) == 2 and step.shapes[0] == step.shapes[1]


def _feeds(run: Graph, ancestors: Ancestors, stream: Origin, branch: int) -> bool:
    """Whether a branch is computed from a stream, or from one without its latest branches."""
    if not isinstance(stream, int) or ancestors.has(branch, stream):
        return isinstance(stream, int)
    step = run.steps[stream]
    return _is_sum(step) and any(_feeds(run, ancestors, part, branch) for part in step.inputs)


def _is_shortcut(run: Graph, ancestors: Ancestors, origin: Origin, branch: int) -> bool:
    """Whether a summand is a projection of what `branch` reads, too, which is more than that."""
    products = 0
    while isinstance(origin, int) and not ancestors.has(branch, origin):
        step = run.steps[origin]
        products += step.name in WEIGHED
        sources = [source for source in step.inputs if ancestors.reads_input(source)]
        if step.name not in _SHORT or products > 1 or len(set(sources)) != 1:
            return False
        origin = sources[0]
    if not isinstance(origin, int) or (run.steps[origin].name == "input" and not products):
        return False  # a mask, as far as one can tell
    return ancestors.products_between(origin, branch) > 1


def _summands(run: Graph, ancestors: Ancestors, origin: int) -> Iterator[int]:
    """Parallel branches that are summed before they meet the stream."""
    step = run.steps[origin]
    a, b = step.inputs if step.name == "add" and len(step.inputs) == 2 else (None, None)
    if not isinstance(a, int) or not isinstance(b, int):
        yield origin  # no sum, or one with a bias
    elif ancestors.has(a, b) or ancestors.has(b, a):
        yield origin  # a stream of its own
    else:
        yield from _summands(run, ancestors, a)
        yield from _summands(run, ancestors, b)


def branch_of(model: nn.Module, run: Graph, zero: Zero, dead: set[int], freed: set[int]) -> Branch:
    """The branch that `zero` ends: of the `dead` steps, those `freed` had readers before."""
    owners = {name.rpartition(".")[0] for name in zero.parameters}
    absent: dict[str, dict[str, Any]] = {}
    operators: set[int] = set()
    counts: dict[str, int] = {}
    for call in run.calls:
        counts[call.module] = counts.get(call.module, 0) + 1
    for call in sorted(run.calls, key=lambda call: -len(call.steps)):
        name = call.module
        if (
            name
            and counts[name] == 1
            and (output := call.output or known_by_class(model.get_submodule(name))) is not None
            and any(number in freed for number in call.steps)
            and all(number in dead for number in call.steps)
            and not is_inside(name, absent)
            and _has_its_own(model, name)
        ):
            absent[name] = dict(output)
            inside = (run.steps[number].operators for number in call.steps)
            operators.update(number for found in inside for number in found)
    around = [name for name in absent if any(is_inside(owner, [name]) for owner in owners)]
    name = [*around, *absent, *sorted(owners)][0]
    reason = "" if absent else "no module of its own computes it, so nothing could be left out"
    return Branch(name, tuple(sorted(zero.parameters)), absent, frozenset(operators), reason)


def _has_its_own(model: nn.Module, name: str) -> bool:
    """Whether a module has parameters, and nobody else has them."""
    module = model.get_submodule(name)
    mine = {id(p) for p in module.parameters()}
    return bool(mine) and not any(
        id(p) in mine and not is_inside(other, [name])
        for other, p in model.named_parameters(remove_duplicate=False)
    )
