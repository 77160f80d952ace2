"""Parameters that are split over several processes (DTensor: FSDP and tensor parallel).

In: members whose parameters are split, each process holding some rows or columns. Out: the same
members on what this process holds, and sums over all processes: a number a group, never a weight.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from secateur.groups.members import Member

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor


def is_split(tensor: Any) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor, which spans several processes."""
    module = sys.modules.get("torch.distributed.tensor")  # no DTensor exists before its import
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; a plain tensor is all here."""
    if not is_split(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def sum_gradient_(parameter: Tensor) -> None:
    """Split a gradient as its parameter is.

    Tensor parallel leaves some gradients as one summand a process; they are summed here, and the
    optimizer, which would do so otherwise, has nothing left to send.
    """
    gradient = parameter.grad
    if is_split(gradient) and is_split(parameter) and gradient.placements != parameter.placements:
        with torch.no_grad():
            parameter.grad = gradient.redistribute(placements=parameter.placements)


def added_up(parts: Iterable[tuple[Tensor, Callable[[Tensor], None]]], zeros: Tensor) -> Tensor:
    """Add up what all parts contribute, on all processes: one all-reduce of `zeros`' size.

    Parts of parameters that every process holds in whole are added up here, without communication,
    to the same sum everywhere. (Parameters split in several ways, as under FSDP and tensor
    parallel at once, take one all-reduce for each mesh dimension of each way.)

    Args:
        parts: (parameter, add_), in the same order on every process: add_(sums) adds to `sums`, in
            place, what this process holds of the parameter.
        zeros: zeros to add to in place, such as (groups,); what is returned, too.
    """
    sums: dict[tuple[ProcessGroup, ...], Tensor] = {(): zeros}
    devices: dict[tuple[ProcessGroup, ...], torch.device] = {}
    for parameter, add_ in parts:
        across = _across(parameter)
        if across not in sums:
            sums[across], devices[across] = torch.zeros_like(zeros), parameter.device
        add_(sums[across])
    whole = sums.pop(())
    for across, part in sums.items():
        part = part.to(devices[across])
        for processes in across:
            torch.distributed.all_reduce(part, group=processes)
        whole += part.to(whole)
    return whole


def anywhere(flag: bool, parameters: Iterable[Tensor]) -> bool:
    """Whether the flag is set on any process that holds a part of these parameters."""
    found = {across: p.device for p in parameters for across in _across(p)}
    for processes, device in found.items():
        votes = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(votes, group=processes)
        flag = bool(votes > 0)
    return flag


def _across(parameter: Tensor) -> tuple[ProcessGroup, ...]:
    """The processes that a parameter is split over, a process group a mesh dimension."""
    if not is_split(parameter):
        return ()
    return tuple(
        parameter.device_mesh.get_group(dim)
        for dim, placement in enumerate(parameter.placements)
        if not placement.is_replicate()
    )


class Sharded(Member):
    """A member of which this process holds a part: the parameter is a DTensor.

    Its ids are those of the whole parameter; what it does, it does to what is here. Tensors that
    it is given have the parameter's shape and are split likewise, or are the part that is here.

    Args:
        whole: the member, bound to a DTensor.
    """

    def __init__(self, whole: Member) -> None:
        part = _part(whole)
        fields = {
            "name": whole.name,
            "parameter": whole.parameter,
            "shape": whole.shape,
            "has_gaps": part.has_gaps,
            "whole": whole,
            "part": part,
        }
        for field, value in fields.items():  # a member is frozen
            object.__setattr__(self, field, value)

    whole: Member
    part: Member

    @property
    def ids(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The group of every element of the whole parameter."""
        return self.whole.ids

    @property
    def stop(self) -> int:
        return self.whole.stop

    def moved(self, offset: int) -> Member:
        return Sharded(self.whole.moved(offset))

    def of(self, parameter: Tensor) -> Member:
        return placed(self.whole.of(parameter))

    def to(self, device: torch.device) -> None:
        """Keep the ids of the part beside it."""
        self.part.to(device)

    def add_squares_(self, total: Tensor, tensor: Tensor | None = None) -> None:
        values = self._here(tensor)
        if values.numel():
            self.part.add_squares_(total, values)

    def add_products_(self, total: Tensor, tensor: Tensor, other: Tensor | None = None) -> None:
        values = self._here(tensor)
        if values.numel():
            self.part.add_products_(total, values, self._here(other).detach())

    def raise_(self, peak: Tensor, tensor: Tensor | None = None) -> None:
        values = self._here(tensor)
        if values.numel():
            self.part.raise_(peak, values)

    def spread(self, factors: Tensor) -> Tensor:
        """The factor of every element's group: broadcasts against what is here."""
        return self.part.spread(factors)

    def scale_(self, factors: Tensor, tensor: Tensor | None = None) -> None:
        values = self._here(tensor)
        if values.numel():
            self.part.scale_(factors, values)

    def _here(self, tensor: Tensor | None) -> Tensor:
        return local(self.parameter if tensor is None else tensor)


def placed(member: Member) -> Member:
    """The member, or, where its parameter is split over processes, the part that is here."""
    return Sharded(member) if is_split(member.parameter) else member


@torch.no_grad()
def _part(whole: Member) -> Member:
    """The member of what is here; its parameter has a shape only."""
    parameter = whole.parameter
    assert is_split(parameter)
    (chunk,) = parameter.__create_chunk_list__()
    ids = whole.ids
    if whole.shape is not None:  # tiles may lie across the cuts: an id for every element
        ids = ids.expand(whole.shape).reshape(parameter.shape)
    for dim, (start, length) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
        if ids.shape[dim] > 1:
            ids = ids.narrow(dim, start, length)
    here = torch.empty(chunk.sizes, dtype=parameter.dtype, device="meta")
    return Member(whole.name, here, ids.clone())
