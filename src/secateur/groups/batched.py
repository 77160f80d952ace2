"""All members in one call: their sums and their scaling in one pass over memory each.

In: members, and the tensors to look at or to scale. Out: the same as from `Member.add_squares_`,
`add_products_` and `scale_` one by one, which remain for whatever the compiled loops can't read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from secateur.groups.batched_gpu import OnGpu
from secateur.groups.member import Member
from secateur.groups.memory_layout import Layout, kind, layout
from secateur.kernels import cpu, gpu

SHARE = 1 << 20  # numbers that are worth a thread of their own


class MemberBatch:
    """Members of one model, ready for the compiled loops.

    Where a member's numbers lie is worked out once for every layout that its tensors come in, and
    what the loops are given is kept as long as the tensors stay in place.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self._layouts: dict[tuple, tuple[Layout, Tensor] | None] = {}
        self._seen: Sequence[tuple[tuple, tuple | None] | None] = ()
        self._ready: tuple[np.ndarray, list[int]] = (np.empty((0, len(cpu.PART)), np.int64), [])

    def __reduce__(self) -> tuple[type[MemberBatch], tuple[Sequence[Member]]]:
        """A copy works out anew where its own tensors lie."""
        return MemberBatch, (self.members,)

    def add_squares_(
        self, total: Tensor, tensors: Sequence[Tensor | None] | None = None
    ) -> list[int]:
        """Add the square of each group's norm to its entry of `total`, in place.

        Args:
            total: (groups,), float64.
            tensors: one a member, or None for those that are left out; the parameters if not given.

        Returns:
            The members that were not looked at, by position: they are for `Member.add_squares_`.
        """
        if self._on_gpu(tensors):
            return self._gpu.add_squares_(total, tensors)
        return self._add_squares_(total, self._given(tensors))

    def add_products_(self, total: Tensor, tensors: Sequence[Tensor | None]) -> list[int]:
        """Add the squares of the parameters times tensors to their groups' entries of `total`.

        Args:
            total: (groups,), float64; changed in place.
            tensors: one a member, such as the gradients, or None for those that are left out.

        Returns:
            The members that were not looked at, by position: they are for `Member.add_products_`.
        """
        if self._on_gpu(tensors):
            return self._gpu.add_products_(total, tensors)
        return self._add_squares_(total, tensors, [member.parameter for member in self.members])

    def _add_squares_(
        self,
        total: Tensor,
        tensors: Sequence[Tensor | None],
        others: Sequence[Tensor] | None = None,
    ) -> list[int]:
        if total.device.type != "cpu" or total.dtype != torch.float64:
            return _there(tensors)
        parts, left = self._parts(tensors, others)
        shares = _shares(parts, most=1 + _numbers(parts) // (16 * max(len(total), 1)))
        if len(shares) == 1:
            cpu.add_squares_(total, parts)
        elif shares:
            sums = torch.zeros(len(shares), len(total), dtype=total.dtype)
            work = zip(sums, shares, strict=True)
            _at_once([partial(cpu.add_squares_, one, part) for one, part in work])
            total += sums.sum(0)
        return left

    def scale_(self, factors: Tensor, tensors: Sequence[Tensor | None] | None = None) -> list[int]:
        """Multiply in place by the groups' factors, (groups,); those of factor 1 are not touched.

        Returns:
            The members that were not scaled, by position: they are for `Member.scale_`.
        """
        if self._on_gpu(tensors):
            return self._gpu.scale_(factors, tensors)
        given = self._given(tensors)
        parts, left = self._parts(given)
        if len(parts):
            factors = factors.to("cpu", torch.float64).contiguous()
            _at_once([partial(cpu.multiply_, share, factors) for share in _shares(parts)])
            for tensor in given:
                if tensor is not None and not tensor.is_inference():
                    increment_version(tensor)  # as any operator in place does, for autograd
        return left

    def _on_gpu(self, tensors: Sequence[Tensor | None] | None) -> bool:
        """Whether the first of these tensors lies on a GPU."""
        first = next((tensor for tensor in self._given(tensors) if tensor is not None), None)
        return first is not None and first.device.type in gpu.DEVICES

    @cached_property
    def _gpu(self) -> OnGpu:
        return OnGpu(self.members)

    def _given(self, tensors: Sequence[Tensor | None] | None) -> Sequence[Tensor | None]:
        return [member.parameter for member in self.members] if tensors is None else tensors

    def _parts(
        self, tensors: Sequence[Tensor | None], others: Sequence[Tensor] | None = None
    ) -> tuple[np.ndarray, list[int]]:
        """What the loops take, int64 (parts, 8), and the members that they can't read.

        Others, if given, are what the tensors are multiplied with; they have to lie in memory as
        the tensors do.
        """
        if not cpu.available():
            return self._ready[0][:0], _there(tensors)
        pairs = list(zip(tensors, others or [None] * len(tensors), strict=True))
        seen = [
            None if x is None else (_place(x), None if y is None else _place(y)) for x, y in pairs
        ]
        if seen == self._seen:
            return self._ready
        rows, left = [], []
        for position, (tensor, other) in enumerate(pairs):
            if tensor is None:
                continue
            found = self._layout(position, self.members[position], tensor)
            if found is None or (other is not None and kind(tensor) != kind(other)):
                left.append(position)
            elif tensor.numel():
                layout, ids = found
                number, second = cpu.TYPES[tensor.dtype], 0 if other is None else other.data_ptr()
                rows.append((tensor.data_ptr(), number, *layout, ids.data_ptr(), second))
        parts = np.array(rows, np.int64).reshape(-1, len(cpu.PART))
        self._seen, self._ready = seen, (parts, left)
        return self._ready

    def _layout(
        self, position: int, member: Member, tensor: Tensor
    ) -> tuple[Layout, Tensor] | None:
        """`layout` of a member in a tensor, worked out once; None: the loops can't read it."""
        if type(member) is not Member or not _readable(tensor):
            return None
        key = position, tensor.shape, tensor.stride()
        if key not in self._layouts:
            self._layouts[key] = layout(member, tensor)
        return self._layouts[key]


def all_finite(tensors: Iterable[Tensor]) -> bool | None:
    """Whether all numbers in these are finite; None where the compiled loops can't read them."""
    kinds = cpu.TYPES | cpu.ONLY_FINITE
    if not cpu.available():
        return None
    rows = []
    for tensor in tensors:
        if not _readable(tensor, kinds) or not _dense(tensor):
            return None
        rows.append((tensor.data_ptr(), kinds[tensor.dtype], 1, 1, 1, tensor.numel(), 0, 0))
    shares = _shares(np.array(rows, np.int64).reshape(-1, len(cpu.PART)))
    return all(_at_once([partial(cpu.finite, share) for share in shares]))


def _there(tensors: Sequence[Tensor | None]) -> list[int]:
    """The positions at which there is a tensor."""
    return [position for position, tensor in enumerate(tensors) if tensor is not None]


def _place(tensor: Tensor) -> tuple:
    """Equal as long as a tensor has the same layout in the same memory."""
    return (id(tensor),) if not _readable(tensor) else (tensor.data_ptr(), *kind(tensor))


def _readable(tensor: Tensor, kinds: dict[torch.dtype, int] = cpu.TYPES) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype in kinds
    )


def _dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (
        tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _numbers(parts: np.ndarray) -> int:
    return int(parts[:, 2:6].prod(1).sum())


def _shares(parts: np.ndarray, most: int | None = None) -> list[np.ndarray]:
    """The parts in shares of about equal work, for as many threads as torch may use."""
    count = min(torch.get_num_threads(), _numbers(parts) // SHARE, len(parts), most or len(parts))
    if count <= 1:
        return [parts] if len(parts) else []
    work = parts[:, 2:6].prod(1)
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for part in np.argsort(-work, kind="stable"):  # the largest first, each to whom has least
        least = loads.index(min(loads))
        shares[least].append(int(part))
        loads[least] += int(work[part])
    return [parts[share] for share in shares if share]


def _at_once(calls: Sequence[Callable[[], object]]) -> list[object]:
    """Run the calls, each in a thread of its own; the loops don't hold Python's lock."""
    if len(calls) <= 1:
        return [call() for call in calls]
    others = [_pool().submit(call) for call in calls[1:]]
    return [calls[0](), *(other.result() for other in others)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="secateur")


if hasattr(os, "register_at_fork"):  # a forked process has no threads but the one that forked
    os.register_at_fork(after_in_child=_pool.cache_clear)
