"""From a traced model to `Groups`: what every kind of structural group shares.

In: a model, example inputs, and which axes a kind wants. Out: `Groups` that can be removed.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.groups.coupling import NO_AXIS, Coupling, Norm, Operation, Size, Slot
from secateur.groups.groups import Groups
from secateur.groups.layer import Layer
from secateur.groups.member import Member
from secateur.surgery.trial import try_removal
from secateur.tracing.axes import Axis, Trace
from secateur.tracing.labels import Operator, compress, entries, varied
from secateur.tracing.model_checks import check_model
from secateur.tracing.size_attributes import groups_along
from secateur.tracing.tracer import trace
from secateur.utils.contexts import tensors_in
from secateur.utils.name_trees import is_inside, names, owner_of, reasons

Ignore = Sequence[str | nn.Module | type[nn.Module]]


def select(
    model: nn.Module,
    example: Any,
    *,
    kind: str,
    wanted: Callable[[Axis], bool],
    ignore: Ignore | str | nn.Module | type[nn.Module] = (),
    keep: str = "inner",
    view: Callable[[Trace], Trace] = lambda found: found,
) -> Groups:
    """Groups of the axes that a kind wants, traced, and checked by a trial removal.

    `view` turns the trace before it is read (to the side of what reads the axes).
    """
    model = check_model(model)
    ignored = ignored_names(model, ignore)
    found = view(trace(model, example, keep=keep))
    refused: list[tuple[str, int, str]] = []
    axes: list[Axis] = []
    for axis in filter(wanted, found.axes):
        reason = axis.protected or kept_by(model, axis.producers, ignored)
        if reason:
            refused.append((axis.name, len(axis), reason))
        else:
            axes.append(axis)
    axes, crossing = _without_crossing(found, axes)
    refused += crossing
    example = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, example)
    groups = build(found, axes, kind, tuple(refused), example)
    failed, biases = try_removal(model, groups) if axes else ({}, ())
    if failed:
        refused += [(axes[n].name, len(axes[n]), reason) for n, reason in failed.items()]
        axes = [axis for n, axis in enumerate(axes) if n not in failed]
        groups = build(found, axes, kind, tuple(refused), example)
    if not axes:
        raise ValueError(nothing_found(model, kind, refused, found))
    _warn_of_unreached(found, groups, ignored)
    return _with_biases(groups, model, biases)


def _warn_of_unreached(found: Trace, groups: Groups, ignored: dict[str, str]) -> None:
    """Parameters that no run used keep their width, though other layers of it may be cut."""
    assert groups.coupling is not None
    cut = [slot for slot in groups.coupling.slots if slot.is_parameter]
    widths = {
        size for x in cut for size, ids in zip(x.shape, x.entries, strict=True) if ids is not None
    }
    reached = [x.name for x in found.tracked if x.is_parameter and x.name not in found.unreached]

    def is_token(name: str, shape: torch.Size) -> bool:
        """Whether it is added to what a module computes that did run, such as a mask token."""
        owner = name.rpartition(".")[0]
        return 1 in shape and any(not owner or is_inside(x, [owner]) for x in reached)

    wide = [
        owner_of(item.name)
        for item in found.tracked
        if item.name in found.unreached
        if any(size % width == 0 for size in item.tensor.shape[:2] for width in widths)
        if not is_token(item.name, item.tensor.shape) and not why_ignored(item.name, ignored)
    ]
    if wide:
        warnings.warn(
            f"no run on the example reaches {names(dict.fromkeys(wide))}, which may read what "
            "these groups remove, and keep their width. Give an example of each way through the "
            'model, example=[x, {"x": x, "task": "b"}], and secateur.method("name", x) for a '
            "method beside forward; or name them in ignore=",
            stacklevel=4,
        )


def verified(groups: Groups, model: nn.Module) -> Groups:
    """Groups that were found on the meta device, after the trial removal on a model with values.

    Raises:
        ValueError: the removal fails for some layers (the reasons are listed), or the example
            inputs have no values either.
    """
    if any(x.is_meta for x in tensors_in(groups.example)):
        raise ValueError(
            "these groups were found on the meta device, and their example inputs are there, too; "
            "give inputs with values: groups.on(model, example)"
        )
    failed, biases = try_removal(model, groups)
    if failed:
        names = [groups.layers[number].name for number in failed]
        reasons = [f"  {name}: {why}" for name, why in zip(names, failed.values(), strict=True)]
        raise ValueError(
            "these groups were found on the meta device; the trial removal on the model with "
            "values fails in\n" + "\n".join(reasons) + f"\nMake them again with ignore={names}"
        )
    return _with_biases(groups, model, biases)


def _with_biases(groups: Groups, model: nn.Module, biases: Sequence[str]) -> Groups:
    """Count the biases that removal will add (to fold constants) among what the network costs."""
    groups = replace(groups, model=model)
    if groups.coupling is None or not biases:
        return groups
    first = {name: slot.names[0] for slot in groups.coupling.slots for name in slot.names}
    added = []
    for name in biases:
        owner = name.removesuffix(".bias")
        dim = 1 if getattr(model.get_submodule(owner), "transposed", False) else 0
        added.append((first[f"{owner}.weight"], dim))
    return replace(groups, coupling=replace(groups.coupling, added=tuple(added)))


def _without_crossing(
    found: Trace, axes: Sequence[Axis]
) -> tuple[list[Axis], list[tuple[str, int, str]]]:
    """Leave out axes that would own elements of a parameter together with an earlier one.

    A parameter that produces along two dimensions (one that is used both ways round) can be grouped
    along one of them only.
    """
    owner = np.full(found.component.max(initial=-1) + 1, -1)
    for number, axis in enumerate(axes):
        owner[axis.components] = number
    out: dict[int, str] = {}
    for item in found.tracked:
        if not item.is_parameter:
            continue
        first = -1  # the dimension that may be grouped
        for dim in range(item.tensor.ndim):
            atoms = item.atoms(dim)
            if item.first_atoms[dim] < 0:
                continue
            mine = np.unique(owner[found.component[atoms[found.produces[atoms]]]])
            mine = [number for number in mine.tolist() if number >= 0 and number not in out]
            if mine and first >= 0:
                out |= dict.fromkeys(mine, f"{item.name} also makes dimension {first} of itself")
            elif mine:
                first = dim
    refused = [(axes[n].name, len(axes[n]), reason) for n, reason in out.items()]
    return [axis for n, axis in enumerate(axes) if n not in out], refused


def nothing_found(
    model: nn.Module, kind: str, refused: list[tuple[str, int, str]], found: Trace
) -> str:
    """That there are no groups of a kind, and why: what was refused, else what has no rule."""
    lines = [f"{type(model).__name__} has no removable {kind}", *reasons(refused)]
    if not refused and found.unknown:
        lines.append(f"  operators without a rule protect what they touch: {found.unknown_words}")
    return "\n".join(lines)


def kept_by(model: nn.Module, producers: Sequence[str], ignored: dict[str, str]) -> str:
    """Why the user or the model keeps what these parameters make from being pruned, or ""."""
    for name in producers:
        parameter = model.get_parameter(name)
        if not parameter.is_floating_point():
            return f"its parameter {name} holds {parameter.dtype}, not real numbers"
        if not parameter.requires_grad:
            return f"its parameter {name} is frozen (requires_grad=False)"
        if reason := why_ignored(name, ignored):
            return reason
    return ""


def why_ignored(name: str, ignored: dict[str, str]) -> str:
    """That the user left a parameter, or a module around it, alone; or ""."""
    around = (given for outer, given in ignored.items() if not outer or is_inside(name, [outer]))
    return next((f"ignored ({given})" for given in around), "")


def ignored_names(model: nn.Module, ignore: Any) -> dict[str, str]:
    """Module or parameter names to leave alone -> what the user called them.

    Raises:
        ValueError: a name, module or type that the model does not have.
    """
    items = [ignore] if isinstance(ignore, (str, nn.Module, type)) else list(ignore)
    modules = dict(model.named_modules())
    names = [*modules, *(name for name, _ in model.named_parameters())]
    ignored: dict[str, str] = {}
    for item in items:
        if isinstance(item, str):
            hits, given = [name for name in names if name == item], repr(item)
        elif isinstance(item, type):
            hits = [name for name, module in modules.items() if isinstance(module, item)]
            given = item.__name__
        else:
            hits = [name for name, module in modules.items() if module is item]
            given = type(item).__name__
        if not hits:
            near = difflib.get_close_matches(item, names, 3) if isinstance(item, str) else []
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"ignore={given}: {type(model).__name__} has no such module{hint}")
        ignored |= dict.fromkeys(hits, given)
    return ignored


def _axes_of(operator: Operator, lookup: np.ndarray) -> tuple[np.ndarray, ...]:
    """The group of every index along each axis of an operator."""
    axes = [NO_AXIS] * operator.depth
    for plane in operator.planes:
        grouped = compress(torch.from_numpy(lookup[plane.numpy()]))
        if bool((grouped >= 0).any()):
            dims = varied(grouped) or varied(plane)
            axes[dims[0]] = entries(grouped)  # straight, so no other dimension varies
    return tuple(axes)


def _norms(found: Trace, lookup: np.ndarray) -> Iterator[Norm]:
    """The normalisations that follow the groups, each once."""
    taken: set[str] = set()
    for statistic in found.statistics:
        entries = lookup[statistic.atoms]
        if statistic.recipe and statistic.module not in taken and (entries >= 0).any():
            taken.add(statistic.module)
            yield Norm(statistic.module, statistic.dim, entries, statistic.recipe)


def build(
    found: Trace,
    axes: Sequence[Axis],
    kind: str,
    refused: tuple[tuple[str, int, str], ...],
    example: Any,
) -> Groups:
    group_of = np.full(found.component.max(initial=-1) + 2, -1)  # the last entry: no atom
    layers, start = [], 0
    for axis in axes:
        group_of[axis.components] = np.arange(start, start + len(axis))
        layers.append(
            Layer(
                axis.name,
                kind,
                start,
                start + len(axis),
                axis.producers,
                inexact=axis.inexact,
            )
        )
        start += len(axis)
    lookup = np.append(group_of[found.component], -1)
    members, slots = [], []
    for item in found.tracked:
        entries: list[np.ndarray | None] = []
        for dim in range(item.tensor.ndim):
            atoms = item.atoms(dim)
            ids = lookup[atoms]
            entries.append(ids if (ids >= 0).any() else None)
            if item.is_parameter and item.first_atoms[dim] >= 0:
                mine = np.where(found.produces[atoms], ids, -1)
                if (mine >= 0).any():
                    shape = [-1 if d == dim else 1 for d in range(item.tensor.ndim)]
                    ids_tensor = torch.from_numpy(mine).reshape(shape)
                    members.append(Member(item.name, item.tensor, ids_tensor))
        slots.append(
            Slot(
                item.names,
                tuple(item.tensor.shape),
                item.tensor.element_size(),
                item.is_parameter,
                tuple(entries),
            )
        )
    operations = [
        Operation(operator.name, operator.flops, _axes_of(operator, lookup))
        for operator in found.operators
    ]
    sizes = tuple(
        Size(module, attribute, line)
        for (module, attribute), line in groups_along(found.sizes, lookup).items()
    )
    norms = tuple(_norms(found, lookup))
    coupling = Coupling(tuple(slots), tuple(operations), sizes=sizes, norms=norms)
    return Groups(tuple(members), tuple(layers), coupling, refused, example, untried=verified)
