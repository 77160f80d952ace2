"""Tensors that are split over processes (DTensor: FSDP, tensor parallel), and sums over all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor


def is_dtensor(tensor: Any) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor, which spans several processes."""
    module = sys.modules.get("torch.distributed.tensor")  # no DTensor exists before its import
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; a plain tensor is all here."""
    if not is_dtensor(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def sum_gradient_(parameter: Tensor) -> None:
    """Split a gradient as its parameter is.

    Tensor parallel leaves some gradients as one summand a process; they are summed here, and the
    optimizer, which would do so otherwise, has nothing left to send.
    """
    gradient = parameter.grad
    if (
        is_dtensor(gradient)
        and is_dtensor(parameter)
        and gradient.placements != parameter.placements
    ):
        with torch.no_grad():
            parameter.grad = gradient.redistribute(placements=parameter.placements)


def all_reduce_sum(
    parts: Iterable[tuple[Tensor, Callable[[Tensor], None]]], zeros: Tensor
) -> Tensor:
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


def any_rank(flag: bool, parameters: Iterable[Tensor]) -> bool:
    """Whether the flag is set on any process that holds a part of these parameters."""
    found = {across: p.device for p in parameters for across in _across(p)}
    for processes, device in found.items():
        votes = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(votes, group=processes)
        flag = bool(votes > 0)
    return flag


def _across(parameter: Tensor) -> tuple[ProcessGroup, ...]:
    """The processes that a parameter is split over, a process group a mesh dimension."""
    if not is_dtensor(parameter):
        return ()
    return tuple(
        parameter.device_mesh.get_group(dim)
        for dim, placement in enumerate(parameter.placements)
        if not placement.is_replicate()
    )
