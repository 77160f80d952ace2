"""Which weights the kinds that leave zeros in place may group: no tracing needed.

In: a model and what to ignore. Out: its weights of two or more dimensions, and those left out with
the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from secateur.groups.admission import admitted
from secateur.groups.groups import Groups
from secateur.groups.layer import Layer
from secateur.groups.members import Member
from secateur.groups.reading import reasons
from secateur.groups.select import ignored_names

Refused = list[tuple[str, int, str]]


def zeros_in_place(
    model: nn.Module,
    ignore: Any,
    *,
    kind: str,
    member: Callable[[str, nn.Parameter, int], Member | str | None],
    blocks: tuple[int, int] | None = None,
) -> Groups:
    """Groups of a kind that leaves zeros in weights of two or more dimensions.

    Args:
        model: any module; it is not run.
        ignore: names, modules or module types whose weights stay as they are.
        kind: the name of the kind.
        member: (name, weight, first group) -> the part of the groups that lies in this weight, or
            why the weight can't be grouped; None where the kind is not about such weights.
        blocks: (n, m) where n of every m consecutive groups stay.

    Raises:
        ValueError: an unknown name in `ignore`, or no weight can be grouped (the reasons are
            listed).
    """
    model = admitted(model)
    ignored = ignored_names(model, ignore)
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    members, layers, start = [], [], 0
    refused: Refused = []
    for weight, known_as in names.items():
        if weight.ndim < 2:
            continue
        name = known_as[0]
        found = _reason(weight, known_as, ignored) or member(name, weight, start)
        if found is None:
            continue
        if isinstance(found, str):
            refused.append((name, weight.numel(), found))
            continue
        owner = name.removesuffix(".weight")
        layers.append(Layer(owner, kind, start, found.stop, (name,), blocks=blocks))
        members.append(found)
        start = found.stop
    if not members:
        lines = [f"{type(model).__name__} has no weight whose {kind} can be grouped"]
        raise ValueError("\n".join([*lines, *reasons(refused)]))
    return Groups(tuple(members), tuple(layers), None, tuple(refused))


def _reason(weight: nn.Parameter, names: list[str], ignored: dict[str, str]) -> str:
    """Why a weight can't be grouped, or ""."""
    for name in names:
        for prefix, given in ignored.items():
            if not prefix or f"{name}.".startswith(f"{prefix}."):
                return f"ignored ({given})"
        if ".parametrizations." in f".{name}":
            return "another weight is computed from it, in which its zeros may not be zeros"
    if not weight.requires_grad:
        return "it is frozen (requires_grad=False)"
    if not weight.is_floating_point():
        return f"it holds {weight.dtype}, not floating point numbers"
    return "" if weight.numel() else "it is empty"
