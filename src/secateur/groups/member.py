"""The one representation of every kind of group: ids that broadcast against a parameter.

In: a parameter and, for each of its elements, the group it belongs to. Out: the norms of the groups
in it, and the parameter scaled by one factor per group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

PIECE = 1 << 17  # elements: what has to be copied is copied piece by piece


@dataclass(frozen=True, eq=False)
class Member:
    """The part of some groups that lies in one parameter.

    Args:
        name: the parameter's name in its model.
        parameter: the parameter itself.
        ids: int64, broadcasts against the parameter (or its view of `shape`); -1 is in no group.
        shape: the shape to view the parameter as, where the groups are blocks of it; or None.

    A convolution's filters have ids of shape (out, 1, 1, 1), its filter shapes (1, in, kh, kw), a
    whole layer one id, single weights as many ids as the parameter has elements.
    """

    name: str
    parameter: Tensor
    ids: Tensor
    shape: tuple[int, ...] | None = None
    has_gaps: bool = field(init=False, repr=False)  # whether an element is in no group
    _shared: tuple[int, ...] = field(init=False, repr=False)  # dimensions along which ids are equal

    def __post_init__(self) -> None:
        shape = self.shape or tuple(self.parameter.shape)
        if self.ids.ndim != len(shape) or any(
            have not in (1, want) for have, want in zip(self.ids.shape, shape, strict=True)
        ):
            raise ValueError(
                f"group ids of {self.name} do not broadcast against it\n"
                f"  ids       {tuple(self.ids.shape)}\n  parameter {shape}"
            )
        sizes = zip(self.ids.shape, shape, strict=True)
        shared = tuple(dim for dim, (mine, whole) in enumerate(sizes) if mine != whole)
        object.__setattr__(self, "has_gaps", bool((self.ids < 0).any()))
        object.__setattr__(self, "_shared", shared)

    @property
    def stop(self) -> int:
        """One more than the highest group number."""
        return int(self.ids.max()) + 1

    def moved(self, offset: int) -> Member:
        """The same part of groups whose numbers are higher by `offset`."""
        ids = torch.where(self.ids >= 0, self.ids + offset, -1)
        return Member(self.name, self.parameter, ids, self.shape)

    def of(self, parameter: Tensor) -> Member:
        """The same part of another parameter of this shape."""
        return Member(self.name, parameter, self.ids, self.shape)

    def view(self, tensor: Tensor) -> Tensor:
        """`tensor`, shaped like the parameter, as the ids see it; a copy if strides ask for one."""
        return tensor if self.shape is None else tensor.reshape(self.shape)

    def to(self, device: torch.device) -> None:
        """Keep the ids beside the parameter."""
        if self.ids.device != device:
            object.__setattr__(self, "ids", self.ids.to(device))

    def add_squares_(self, total: Tensor, tensor: Tensor | None = None) -> None:
        """Add the square of each group's norm to its entry of `total`, (groups,), in place."""
        if total.device.type != "cpu" and self._repeats:
            # Accelerators add to one place in any order; processes would come to different sums.
            sums = torch.zeros_like(total, device="cpu")
            self.add_squares_(sums, tensor)
            total += sums.to(total.device)
            return
        for ids, norms in self._reduced(2, tensor):
            total.index_add_(0, ids.to(total.device), norms.to(total).square_())

    def add_products_(self, total: Tensor, tensor: Tensor, other: Tensor | None = None) -> None:
        """Add each group's sum of squared products to its entry of `total`, (groups,), in place.

        Args:
            total: in the dtype that products and sums are made in.
            tensor: of the parameter's shape, such as the gradient.
            other: what it is multiplied with, the parameter if not given.
        """
        if total.device.type != "cpu" and self._repeats:
            sums = torch.zeros_like(total, device="cpu")  # as in add_squares_
            self.add_products_(sums, tensor, other)
            total += sums.to(total.device)
            return
        pair = tensor, self.parameter.detach() if other is None else other
        self.to(tensor.device)
        pieces = (self._pieces(self.view(values), copies=True) for values in pair)
        for (ids, x), (_, y) in zip(*pieces, strict=True):
            products = (x.to(total.dtype) * y.to(total.dtype)).square_()
            found = (products.sum(self._shared) if self._shared else products).reshape(-1)
            ids = ids.reshape(-1)
            grouped = ids >= 0 if self.has_gaps else slice(None)
            total.index_add_(0, ids[grouped].to(total.device), found[grouped].to(total))

    def raise_(self, peak: Tensor, tensor: Tensor | None = None) -> None:
        """Raise entries of `peak`, (groups,), to their groups' largest magnitudes, in place."""
        for ids, norms in self._reduced(torch.inf, tensor):  # unlike a square, it can't underflow
            peak.scatter_reduce_(0, ids.to(peak.device), norms.to(peak), "amax")

    def spread(self, factors: Tensor) -> Tensor:
        """The factor of every element's group: broadcasts against the parameter.

        `factors` has shape (groups + 1,): its last entry is the factor of what is in no group.
        """
        self.to(factors.device)
        return self._as_parameter(factors[self.ids])

    def scale_(self, factors: Tensor, tensor: Tensor | None = None) -> None:
        """Multiply the parameter (or a tensor of its shape) in place by its groups' factors.

        `factors` has shape (groups + 1,): its last entry, 1, is the factor of what is in no group.
        (groups,) is enough where every element is in a group. 0 makes zeros of any value.
        """
        target = self.parameter.detach() if tensor is None else tensor
        self.to(target.device)
        factors = factors.to(target.device)
        if self.shape is not None and not _can_view(target, self.shape):
            multiply_(target, self._as_parameter(factors[self.ids]))
            return
        for ids, piece in self._pieces(self.view(target), copies=False):
            mine = factors[ids]
            if target.device.type == "cpu" and not bool((mine != 1).any()):
                continue  # spares a pass over memory; an accelerator would have to wait
            multiply_(piece, mine)

    @cached_property
    def _repeats(self) -> bool:
        """Whether a group has several entries in the ids."""
        grouped = self.ids[self.ids >= 0]
        return len(grouped.unique()) < len(grouped)

    def _as_parameter(self, mine: Tensor) -> Tensor:
        return mine if self.shape is None else mine.expand(self.shape).reshape(self.parameter.shape)

    def _pieces(self, values: Tensor, *, copies: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Slices of `values` along the longest dimension, with their ids.

        All in one where nothing large will be copied: neither the values nor one number an id.
        """
        if max(values.numel() if copies else 0, self.ids.numel()) <= PIECE:
            yield self.ids, values
            return
        dim = max(range(values.ndim), key=values.shape.__getitem__)
        size = max(PIECE * values.shape[dim] // values.numel(), 1)
        for start in range(0, values.shape[dim], size):
            length = min(size, values.shape[dim] - start)
            same = dim in self._shared
            yield (
                self.ids if same else self.ids.narrow(dim, start, length),
                values.narrow(dim, start, length),
            )

    def _reduced(
        self, order: float, tensor: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Vector norms of the parameter (or a tensor of its shape), one for each id entry.

        Half precision accumulates in float32. A CPU casts all of it before it reduces: then, and
        where nothing is reduced, piece by piece.

        Yields:
            (ids, norms): both of shape (entries,); an id may appear several times.
        """
        values = self.view(self.parameter.detach() if tensor is None else tensor)
        self.to(values.device)
        if not values.numel():
            return  # such as a LoRA of rank 0: adds nothing to its groups
        dtype = torch.promote_types(values.dtype, torch.float32)
        copies = values.dtype != dtype and values.device.type == "cpu"
        for ids, piece in self._pieces(values, copies=copies):
            found = self._norms(piece, order, dtype).reshape(-1)
            ids = ids.reshape(-1)
            grouped = ids >= 0 if self.has_gaps else slice(None)
            yield ids[grouped], found[grouped]

    def _norms(self, values: Tensor, order: float, dtype: torch.dtype) -> Tensor:
        if not self._shared:
            return values.to(dtype).abs()
        if order == 2 and values.device.type == "cpu" and self._shared[0] == 0:
            found = _norms_over_rows(values, self._shared, dtype)
        else:
            found = torch.linalg.vector_norm(values, order, dim=self._shared, dtype=dtype)
        if order == 2 and values.device.type == "cpu" and self._leaves_range(values, found):
            return torch.linalg.vector_norm(values.double(), order, dim=self._shared)
        return found

    def _leaves_range(self, values: Tensor, norms: Tensor) -> bool:
        """Whether a float32 square has under- or overflown (an accelerator is not made to wait)."""
        doubtful = ~((norms > 1e-15) & (norms < 1e15))
        if norms.dtype != torch.float32 or not values.numel() or not bool(doubtful.any()):
            return False
        peak = torch.linalg.vector_norm(values, torch.inf, dim=self._shared, dtype=norms.dtype)
        return bool((doubtful & (peak > 0) & peak.isfinite()).any())


def multiply_(values: Tensor, factors: Tensor) -> None:
    """Multiply in place; where the factor is 0, by no more than writing zeros."""
    values.mul_(factors.to(values.dtype))
    gone = factors == 0
    if values.device.type != "cpu" or bool(gone.any()):  # an accelerator would have to wait
        values.masked_fill_(gone, 0)


def _norms_over_rows(values: Tensor, dims: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Norms along dimension 0, and others in `dims`: here a CPU adds up squares ten times faster.

    Block by block, so that no copy is larger than `PIECE` elements or one row.
    """
    rows = max(PIECE * len(values) // max(values.numel(), 1), 1)
    total = torch.zeros(values.shape[1:], dtype=dtype)
    for block in values.split(rows):
        total += block.to(dtype).square().sum(0)
    inner = tuple(dim - 1 for dim in dims[1:])
    return (total.sum(inner) if inner else total).sqrt_()


def _can_view(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    try:
        tensor.view(shape)
    except RuntimeError:
        return False
    return True
