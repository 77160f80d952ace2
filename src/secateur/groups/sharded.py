"""Parameters that are split over several processes (DTensor: FSDP and tensor parallel).

In: members whose parameters are split, each process holding some rows or columns. Out: the same
members on what this process holds, and sums over all processes: a number a group, never a weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.groups.member import Member
from secateur.utils.distributed import is_dtensor, local

if TYPE_CHECKING:
    pass


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
        return shard_member(self.whole.of(parameter))

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


def shard_member(member: Member) -> Member:
    """The member, or, where its parameter is split over processes, the part that is here."""
    return Sharded(member) if is_dtensor(member.parameter) else member


@torch.no_grad()
def _part(whole: Member) -> Member:
    """The member of what is here; its parameter has a shape only."""
    parameter = whole.parameter
    assert is_dtensor(parameter)
    (chunk,) = parameter.__create_chunk_list__()
    ids = whole.ids
    if whole.shape is not None:  # tiles may lie across the cuts: an id for every element
        ids = ids.expand(whole.shape).reshape(parameter.shape)
    for dim, (start, length) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
        if ids.shape[dim] > 1:
            ids = ids.narrow(dim, start, length)
    here = torch.empty(chunk.sizes, dtype=parameter.dtype, device="meta")
    return Member(whole.name, here, ids.clone())
