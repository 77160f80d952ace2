"""How the groups of a member lie in memory, for the compiled loops and the kernels.

In: a member, and a tensor shaped like its parameter. Out: four sizes, and the groups as they come.
"""

from __future__ import annotations

from torch import Tensor

from secateur.groups.member import Member

Layout = tuple[int, int, int, int]  # outer, rows, groups, size: what they are, _parts.c says


def layout(member: Member, tensor: Tensor) -> tuple[Layout, Tensor] | None:
    """Find the part (_parts.c) that a member is in a tensor shaped like its parameter.

    Args:
        member: its groups.
        tensor: with strides as they may be; nothing is read from it.

    Returns:
        ((outer, rows, groups, size), ids), with the ids contiguous, (outer, groups), on the CPU; or
        None where the tensor has gaps, or where groups alternate more often along its memory.
    """
    try:
        values = tensor if member.shape is None else tensor.view(member.shape)
    except RuntimeError:  # the shape cuts across the strides
        return None
    sizes = zip(member.ids.shape, values.shape, strict=False)
    if values.ndim != member.ids.ndim or any(mine not in (1, whole) for mine, whole in sizes):
        return None  # no longer the shape that the groups were made for
    order = sorted(
        (dim for dim, size in enumerate(values.shape) if size > 1),
        key=lambda dim: -values.stride(dim),
    )
    expected = 1
    for dim in reversed(order):
        if values.stride(dim) != expected:
            return None
        expected *= values.shape[dim]
    ids = member.ids.to("cpu").permute(*order, *(d for d in range(values.ndim) if d not in order))
    left = [(values.shape[dim], member.ids.shape[dim] > 1) for dim in order]
    sizes = []
    for varies in (False, True, False, True):  # from the innermost: size, groups, rows, outer
        sizes.append(1)
        while left and left[-1][1] == varies:
            sizes[-1] *= left.pop()[0]
    size, groups, rows, outer = sizes
    return None if left else ((outer, rows, groups, size), ids.contiguous())


def kind(tensor: Tensor) -> tuple:
    """Equal for tensors whose numbers lie in memory alike."""
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()
