"""The same groups on another copy of a model: whether it has the same tensors, shapes and ties.

In: a model and where groups sit in another copy of it. Out: where they sit in this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from secateur.groups.coupling import Coupling
from secateur.groups.member import Member
from secateur.utils.distributed import is_dtensor
from secateur.utils.forward import without_shells


def refuse_misfit(
    model: nn.Module, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]
) -> None:
    found = tensors.get(name)
    if found is None or found.shape != shape:
        have = "no such parameter" if found is None else f"shape {tuple(found.shape)}"
        raise ValueError(
            f"these groups do not fit this {type(model).__name__}, at {name}\n"
            f"  groups expect shape {shape}\n"
            f"  the model has {have}"
        )


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also without what wrappers of single modules add to it."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    return without_shells(tensors) | tensors


def fitting(coupling: Coupling, model: nn.Module) -> Coupling:
    """The coupling of another copy of the model, if whatever groups cut looks the same there."""
    tensors = tensors_of(model)
    owners: dict[int, str] = {}  # a tensor -> the name of its slot
    slots = []
    for slot in coupling.slots:
        for name in slot.names if slot.is_cut else ():
            refuse_misfit(model, tensors, name, slot.shape)
            first = tensors[slot.names[0]]
            other = owners.setdefault(id(tensors[name]), slot.names[0])
            if tensors[name] is not first or other != slot.names[0]:
                pair = (slot.names[0], name) if tensors[name] is not first else (other, name)
                raise ValueError(
                    f"these groups do not fit this {type(model).__name__}: whether {pair[0]} and "
                    f"{pair[1]} are one tensor is not the same here. Make the groups on a model "
                    "with the same tied weights"
                )
        found = tensors.get(slot.names[0])
        size = slot.itemsize if found is None else found.element_size()
        slots.append(replace(slot, itemsize=size))
    return replace(coupling, slots=tuple(slots))


def refuse_split(members: Iterable[Member]) -> None:
    """What was found on the meta device is tried out on a model that this process holds."""
    if any(is_dtensor(member.parameter) for member in members):
        raise ValueError(
            "these groups were found on the meta device, and have to be tried out on values before "
            "the model is split over processes: groups = groups.on(model) on an ordinary copy of "
            "it first, then groups.on(the split model)"
        )
