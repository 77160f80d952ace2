"""Experts that are stacked: one parameter holds the matrices of all of them, one behind the other.

In: a recorded run. Out: for each module with such parameters, which slices make an expert zero,
which operators are an expert's own, and what keeps its experts from being removed, if anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.groups.coupling import Coupling, Routed, Size
from secateur.groups.groups import Groups
from secateur.groups.layer import Layer
from secateur.groups.member import Member
from secateur.kinds.build import kept_by
from secateur.surgery.forward_wrappers import AT_FIRST, PAST, Rerouted, is_choice
from secateur.surgery.trial import try_removal
from secateur.tracing.graph import Graph
from secateur.utils.contexts import preserve_state, unfused_ops
from secateur.utils.forward import arguments

_VIEWS = {"t", "transpose", "permute", "view", "split", "slice", "detach", "alias", "_to_copy"}
_TAKING = {*_VIEWS, "select", "index", "index_select", "unsqueeze", "expand", "clone"}


@dataclass(frozen=True)
class Stack:
    """A module with stacked experts.

    Attributes:
        module: its name.
        count: how many experts.
        parameters: those that hold a slice of each expert along their first dimension.
        zeros: those of them that make an expert's output zero.
        operators: which of the trace's operators belong to one expert: number -> expert.
        used: how often the example chooses each expert, (count,).
        reason: why no expert can be removed, or "".
    """

    module: str
    count: int
    parameters: tuple[str, ...]
    zeros: tuple[str, ...]
    operators: dict[int, int]
    used: np.ndarray
    reason: str = ""


def find_stacks(model: nn.Module, run: Graph, example: Any) -> Iterator[Stack]:
    """The modules that hold stacked experts and are given the indices of those to use."""
    stacked = dict(_stacked(model))
    chosen = _choices(model, example, list(stacked))
    used_at = _uses(run)
    for name, parameters in stacked.items():
        if not chosen[name] or not any(len(choice) for choice in chosen[name]):
            continue  # parameters of another kind: nothing chooses among them
        count = model.get_parameter(parameters[0]).shape[0]
        last = {parameter: used_at.get(parameter, -1) for parameter in parameters}
        matrices = [p for p in parameters if model.get_parameter(p).ndim == 3]
        final = max(matrices, key=lambda parameter: last[parameter])
        zeros = (final, *(p for p in parameters if last[p] > last[final]))
        used = np.bincount(np.concatenate(chosen[name][0]), minlength=count)
        stack = Stack(name, count, parameters, zeros, _own_operators(run, parameters), used)
        if len(chosen[name]) > 1:
            stack = replace(stack, reason="it is called repeatedly")
        elif len(used) > count:
            stack = replace(stack, reason="it is given indices of more experts than it holds")
        yield stack


def _stacked(model: nn.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules of no library of layers whose own parameters have one size first, 3-d ones among."""
    for name, module in model.named_modules():
        own = {f"{name}.{leaf}" if name else leaf: p for leaf, p in module._parameters.items()}
        sizes = {p.shape[0] for p in own.values() if p is not None and p.ndim == 3}
        if len(sizes) == 1 and not type(module).__module__.startswith("torch.nn."):
            count = sizes.pop()
            found = [n for n, p in own.items() if p is not None and p.ndim > 1]
            found = [n for n in found if model.get_parameter(n).shape[0] == count]
            if count > 1:
                yield name, tuple(found)


@torch.no_grad()
def _choices(
    model: nn.Module, example: Any, names: Sequence[str]
) -> dict[str, list[list[np.ndarray]]]:
    """The indices that each module is given, in each of its calls."""
    found: dict[str, list[list[np.ndarray]]] = {name: [] for name in names}

    def note(name: str, values: Sequence[Any]) -> None:
        indices = [x.reshape(-1).cpu().numpy() for x in values if is_choice(x)]
        forward = model.get_submodule(name).forward
        if isinstance(forward, Rerouted):  # some experts have left before
            indices = [np.array(forward.places)[x] for x in indices]
        found[name].append([x[x >= 0] for x in indices])

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: note(name, (*args, *kwargs.values())),
            with_kwargs=True,
        )
        for name in names
    ]
    args, kwargs = arguments(example)
    try:
        with preserve_state(model), unfused_ops():
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _uses(run: Graph) -> dict[str, int]:
    """For each parameter the last step that computes with it, or with what was taken out of it."""
    source: dict[int, str] = {}
    last: dict[str, int] = {}
    for number, step in enumerate(run.steps):
        names = [source.get(o, "") if isinstance(o, int) else o or "" for o in step.inputs]
        if step.name in _TAKING and names and names[0]:
            source[number] = names[0]
        else:
            last |= dict.fromkeys(filter(None, names), number)
    return last


def _own_operators(run: Graph, parameters: Sequence[str]) -> dict[int, int]:
    """Operators that read the slice of one expert, where the model takes them one by one."""
    expert: dict[int, int] = {}
    operators: dict[int, int] = {}
    for number, step in enumerate(run.steps):
        first = step.inputs[0] if step.inputs else None
        if step.name == "select" and step.index is not None and first in parameters:
            expert[number] = step.index
        elif step.name in _VIEWS and isinstance(first, int) and first in expert:
            expert[number] = expert[first]
        for origin in step.inputs:
            if isinstance(origin, int) and origin in expert:
                operators |= dict.fromkeys(step.operators, expert[origin])
    return operators


def group_stacks(
    model: nn.Module, stacks: Sequence[Stack], blank: Groups, ignored: dict[str, str]
) -> Groups:
    """One group an expert, one layer a stack; those that fail a trial removal are in `refused`.

    Args:
        model: left as it was.
        stacks: of the model.
        blank: the groups of its trace without any group.
        ignored: names that stay -> what the user called them.
    """
    refused: list[tuple[str, int, str]] = []
    trying: list[Stack] = []
    for stack in stacks:
        if reason := stack.reason or kept_by(model, stack.zeros, ignored):
            refused.append((stack.module, stack.count, reason))
        else:
            trying.append(stack)
    good: list[tuple[Stack, int]] = []
    for gone in (PAST, AT_FIRST):
        attempt = [*good, *((stack, gone) for stack in trying)]
        failed = _failing(model, _grouped(model, attempt, blank), attempt[len(good) :], len(good))
        good += [(stack, gone) for n, stack in enumerate(trying) if n not in failed]
        if gone == AT_FIRST:
            refused += [(trying[n].module, trying[n].count, why) for n, why in failed.items()]
        trying = [trying[n] for n in failed]
    order = {stack.module: position for position, stack in enumerate(stacks)}
    good.sort(key=lambda pair: order[pair[0].module])
    return replace(_grouped(model, good, blank), refused=tuple(refused))


def _failing(
    model: nn.Module, groups: Groups, attempts: Sequence[tuple[Stack, int]], first: int
) -> dict[int, str]:
    """Which stacks can't lose all experts but the one that is chosen least."""
    parts = []
    for (stack, _), layer in zip(attempts, groups.layers[first:], strict=True):
        dead = np.zeros(len(groups), bool)
        dead[layer.span] = True
        dead[layer.start + int(stack.used.argmin())] = False
        parts.append(dead)
    return try_removal(model, groups, parts)[0] if parts else {}


def _grouped(model: nn.Module, found: Sequence[tuple[Stack, int]], blank: Groups) -> Groups:
    assert blank.coupling is not None
    members: list[Member] = []
    layers: list[Layer] = []
    entries: dict[str, np.ndarray] = {}
    within: dict[int, int] = {}
    sizes: list[Size] = []
    routed: list[Routed] = []
    for stack, gone in found:
        start = layers[-1].stop if layers else 0
        numbers = np.arange(start, start + stack.count)
        layers.append(Layer(stack.module, "experts", start, start + stack.count, stack.zeros))
        entries |= dict.fromkeys(stack.parameters, numbers)
        if gone == PAST:  # else what the expert would have done, the first one does
            within |= {operator: start + expert for operator, expert in stack.operators.items()}
        for name in stack.zeros:
            parameter = model.get_parameter(name)
            shape = [-1] + [1] * (parameter.ndim - 1)
            ids = torch.from_numpy(numbers).reshape(shape).to(parameter.device)
            members.append(Member(name, parameter, ids))
        module = model.get_submodule(stack.module)
        sizes += [
            Size(stack.module, attribute, numbers)
            for attribute, value in vars(module).items()
            if type(value) is int and value == stack.count and "expert" in attribute
        ]
        routed.append(Routed(stack.module, numbers, gone))
    slots = tuple(
        replace(slot, entries=(entries[slot.names[0]], *slot.entries[1:]))
        if slot.names[0] in entries
        else slot
        for slot in blank.coupling.slots
    )
    operations = tuple(
        replace(operation, within=((within[n],),)) if n in within else operation
        for n, operation in enumerate(blank.coupling.operations)
    )
    coupling = Coupling(slots, operations, sizes=tuple(sizes), routed=tuple(routed))
    return Groups(
        tuple(members),
        tuple(layers),
        coupling,
        (),
        blank.example,
        model=model,
        untried=blank.untried,
    )
