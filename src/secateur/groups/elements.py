"""Parameters whose every element is a group of its own: numbers are counted, not stored.

In: a parameter and the number of its first group. Out: what `Member` gives, without ids in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.groups.members import Member


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
    def stop(self) -> int:
        return self.start + self.view(self.parameter).numel()

    @property
    def ids(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The group of every element, int64 in the parameter's shape; made when it is read."""
        ids = torch.full(self.parameter.shape, -1, device=self.parameter.device)
        grouped = self.view(ids)
        grouped.copy_(torch.arange(self.start, self.stop, device=ids.device).view(grouped.shape))
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

    def reduce(self, order: float, tensor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        magnitudes = self._values(tensor).abs()
        return torch.arange(self.start, self.stop, device=magnitudes.device), magnitudes

    def add_squares_(self, total: Tensor, tensor: Tensor | None = None) -> None:
        total[self.start : self.stop] += self._values(tensor).to(total).square_()

    def raise_(self, peak: Tensor) -> None:
        mine = peak[self.start : self.stop]
        torch.maximum(mine, self._values().abs().to(peak), out=mine)

    def _values(self, tensor: Tensor | None = None) -> Tensor:
        values = self.view(self.parameter.detach() if tensor is None else tensor).reshape(-1)
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def spread(self, factors: Tensor) -> Tensor:
        spread = factors[-1].expand(self.parameter.shape).clone()
        grouped = self.view(spread)
        grouped.copy_(factors[self.start : self.stop].view(grouped.shape))
        return spread

    def scale_(self, factors: Tensor, tensor: Tensor | None = None) -> None:
        target = self.parameter.detach() if tensor is None else tensor
        mine = factors[self.start : self.stop].to(target.device)
        if target.device.type == "cpu" and not bool((mine != 1).any()):
            return
        grouped = self.view(target)
        grouped.mul_(mine.to(target.dtype).view(grouped.shape))
