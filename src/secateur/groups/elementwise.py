"""Parameters whose every element is a group of its own: numbers are counted, not stored.

In: a parameter and the number of its first group. Out: what `Member` gives, without ids in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.groups.member import PIECE, Member, multiply_


class Elements(Member):
    """A member in which every element is one group, in the order of a view of the parameter.

    Args:
        name: the parameter's name in its model.
        parameter: the parameter itself.
        start: the group of the first element.
        dim: the dimension along which group numbers run fastest; the others keep their order.
        size: how many entries along `dim` are grouped, from the first; None: all. The rest is in no
            group.

    Example:
        >>> Elements("weight", torch.ones(2, 3), start=10, dim=0).ids
        tensor([[10, 12, 14],
                [11, 13, 15]])
    """

    def __init__(
        self, name: str, parameter: Tensor, start: int = 0, dim: int = -1, size: int | None = None
    ) -> None:
        size = parameter.shape[dim] if size is None else size
        fields = {
            "name": name,
            "parameter": parameter,
            "shape": None,
            "start": start,
            "dim": dim,
            "size": size,
        }
        for field, value in fields.items():  # a member is frozen
            object.__setattr__(self, field, value)

    start: int
    dim: int
    size: int

    @property
    def has_gaps(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.size < self.parameter.shape[self.dim]

    @property
    def stop(self) -> int:
        return self.start + self.view(self.parameter).numel()

    @property
    def ids(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The group of every element, int64 in the parameter's shape; made when it is read."""
        ids = torch.full(self.parameter.shape, -1, device="cpu")
        grouped = self.view(ids)
        grouped.copy_(torch.arange(self.start, self.stop, device="cpu").view(grouped.shape))
        return ids

    def moved(self, offset: int) -> Elements:
        return Elements(self.name, self.parameter, self.start + offset, self.dim, self.size)

    def of(self, parameter: Tensor) -> Elements:
        return Elements(self.name, parameter, self.start, self.dim, self.size)

    def view(self, tensor: Tensor) -> Tensor:
        """The grouped elements of `tensor`, which has the parameter's shape, in group order."""
        return tensor.movedim(self.dim, -1)[..., : self.size]

    def to(self, device: torch.device) -> None:
        """Nothing is kept beside the parameter."""

    def add_squares_(self, total: Tensor, tensor: Tensor | None = None) -> None:
        for first, (values,) in self._in_order(tensor):
            total[first : first + len(values)] += values.to(total).square()

    def add_products_(self, total: Tensor, tensor: Tensor, other: Tensor | None = None) -> None:
        for first, (x, y) in self._in_order(tensor, other):
            total[first : first + len(x)] += (x.to(total) * y.to(total)).square_()

    def raise_(self, peak: Tensor, tensor: Tensor | None = None) -> None:
        for first, (values,) in self._in_order(tensor):
            mine = peak[first : first + len(values)]
            torch.maximum(mine, values.to(peak).abs(), out=mine)

    def _in_order(self, *tensors: Tensor | None) -> Iterator[tuple[int, list[Tensor]]]:
        """The grouped elements piece by piece: the first one's group, and values of shape (n,) of
        each tensor; None stands for the parameter.
        """
        given = [self.parameter.detach() if tensor is None else tensor for tensor in tensors]
        views = [self.view(tensor) for tensor in given]
        if all(view.is_contiguous() for view in views):
            views = [view.view(-1) for view in views]
        rows = max(PIECE * len(views[0]) // max(views[0].numel(), 1), 1)
        first = self.start
        for pieces in zip(*(view.split(rows) for view in views), strict=True):
            yield first, [piece.reshape(-1) for piece in pieces]
            first += pieces[0].numel()

    def spread(self, factors: Tensor) -> Tensor:
        spread = factors[-1].expand(self.parameter.shape).clone()
        grouped = self.view(spread)
        grouped.copy_(factors[self.start : self.stop].view(grouped.shape))
        return spread

    def scale_(self, factors: Tensor, tensor: Tensor | None = None) -> None:
        target = self.parameter.detach() if tensor is None else tensor
        mine = factors[self.start : self.stop].to(target.device)
        if target.device.type == "cpu" and mine.numel() and _all_one(mine):
            return
        grouped = self.view(target)
        multiply_(grouped, mine.view(grouped.shape))


def _all_one(factors: Tensor) -> bool:
    low, high = factors.aminmax()
    return bool((low == 1) & (high == 1))
