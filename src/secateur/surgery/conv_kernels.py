"""Smaller kernels: which border positions a convolution can lose, and its padding afterwards.

In: a kernel whose first or last positions along an axis are zero everywhere. Out: how many can go,
and the same module with its padding adjusted, so that the output stays where it is.

A convolution of stride s, dilation d and padding p reads x[i s - p + k d] at position k: without
the first a positions it is padded by p - a d on that side, and likewise on the other side. The two
sides are independent of each other: nn.Conv pads itself by one number a side in every padding mode
but "zeros", so that uneven zeros become the mode "constant", where less than nothing crops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Sides = tuple[int, int]  # before the first position and behind the last one


def removable(weight: Tensor, axis: int, modules: Sequence[nn.Module]) -> Sides:
    """How many positions can go at either end of a kernel's axis, in all modules that use it."""
    first, last = _outside(weight, axis)
    choices = [
        (a, b)
        for a, b in product(range(first + 1), range(last + 1))
        if all(_can_lose(module, axis, (a, b)) for module in modules)
    ]
    return max(choices, key=sum, default=(0, 0))


def shrink_kernel(module: _ConvNd, sizes: Sequence[int], kept: dict[int, tuple[int, ...]]) -> None:
    """Let a convolution follow its weight, whose kernel had `sizes`; `kept` is by dimension."""
    cuts = [
        (kept[dim][0], size - 1 - kept[dim][-1]) if dim in kept else (0, 0)
        for dim, size in enumerate(sizes, start=2)
    ]
    if not any(map(any, cuts)):
        return
    pads = [_less(module, axis, cut) for axis, cut in enumerate(cuts)]
    module.kernel_size = tuple(module.weight.shape[2:])
    if module.transposed:
        module.padding = tuple(before for before, _ in pads)
        module.output_padding = tuple(before - behind for before, behind in pads)
        return
    if module.padding != "same" or any(a != b for a, b in cuts):  # else it follows by itself
        module.padding = tuple(max(pad) for pad in pads)
        if pads_with_zeros(module):
            uneven = any(before != behind or before < 0 for before, behind in pads)
            module.padding_mode = "constant" if uneven else "zeros"  # pyright: ignore
    module._reversed_padding_repeated_twice = [side for pad in reversed(pads) for side in pad]


def padding(module: _ConvNd) -> list[Sides]:
    """What a convolution adds at either end of each axis; what a transposed one crops there."""
    if module.transposed:
        each = zip(module.padding, module.output_padding, strict=True)
        return [(int(pad), int(pad) - int(more)) for pad, more in each]
    if module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return [(int(pad), int(pad)) for pad in module.padding]
    flat = module._reversed_padding_repeated_twice
    return [(flat[at], flat[at + 1]) for at in range(len(flat) - 2, -1, -2)]


def pads_with_zeros(module: _ConvNd) -> bool:
    """Whether what lies outside of the input counts as zero."""
    return module.padding_mode in ("zeros", "constant")


def _less(module: _ConvNd, axis: int, cut: Iterable[int]) -> Sides:
    """The padding that is left of an axis without some of the kernel's first and last positions."""
    before, behind = (
        pad - module.dilation[axis] * lost
        for pad, lost in zip(padding(module)[axis], cut, strict=True)
    )
    return before, behind


def _can_lose(module: nn.Module, axis: int, cut: Sides) -> bool:
    """Whether a module's padding can make up for these positions, exactly."""
    if not any(cut):
        return True
    if not isinstance(module, _ConvNd):
        return False
    before, behind = _less(module, axis, cut)
    if module.transposed:  # it adds to the output on one side only, and not as much as a stride
        most = max(module.stride[axis], module.dilation[axis])
        return before >= 0 and 0 <= before - behind < most
    return pads_with_zeros(module) or min(before, behind) >= 0


def _outside(weight: Tensor, axis: int) -> Sides:
    """How many positions are zero everywhere at either end of an axis; none where all of them."""
    taps = weight.detach().movedim(axis + 2, 0).flatten(1).any(1)
    if not bool(taps.any()):
        return 0, 0
    used = taps.nonzero()
    return int(used[0]), len(taps) - 1 - int(used[-1])
