"""Blocks: small rectangles of weight matrices, for kernels that skip whole tiles."""

from __future__ import annotations

import math

import torch
from torch import nn

from secateur.groups.eligible import zeros_in_place
from secateur.groups.groups import Groups
from secateur.groups.members import Member
from secateur.groups.select import Ignore


def blocks(
    model: nn.Module,
    shape: tuple[int, int] = (4, 4),
    *,
    ignore: Ignore | str | nn.Module | type[nn.Module] = (),
) -> Groups:
    """Group each weight matrix into rectangles of one shape.

    A group is a tile of `shape` = (rows, columns) of a matrix; weights of more dimensions are seen
    as (first dimension, all others), a convolution as (out, in x kernel). It is dead when all of
    its elements are zero. Nothing is removed: training ends with exactly the budgeted number of
    tiles and zeros elsewhere, and `shrink` returns an equal copy and says so. Where a size does not
    divide, the rows or columns after the last whole tile are in no group and stay.

    Args:
        model: any module; it is not run.
        shape: rows and columns of a tile, integers of 1 or more.
        ignore: names, modules or module types whose weights stay as they are.

    Returns:
        One group a tile, row by row, one layer a parameter.

    Raises:
        ValueError: a bad shape, an unknown name in `ignore`, or no matrix holds a whole tile.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10))
        >>> groups = blocks(model, (4, 4))
        >>> groups  # two of the last layer's ten rows are in no tile
        Groups(12: 0 6, 2 6)
    """
    if len(shape) != 2 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"blocks: shape={shape}: expected (rows, columns), integers of 1 or more")

    def member(name: str, weight: nn.Parameter, start: int) -> Member | str:
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        down, across = rows // shape[0], columns // shape[1]
        if not down or not across:
            return f"its {rows} x {columns} elements hold no whole tile of {shape[0]} x {shape[1]}"
        tiles = torch.arange(start, start + down * across, device="cpu")
        if (down * shape[0], across * shape[1]) == (rows, columns):
            tiles, seen_as = tiles.view(down, 1, across, 1), (down, shape[0], across, shape[1])
            return Member(name, weight, tiles, seen_as)
        ids = torch.full((rows, columns), -1, device="cpu")
        covered = ids[: down * shape[0], : across * shape[1]]
        covered.unflatten(1, (across, -1)).unflatten(0, (down, -1)).copy_(
            tiles.view(down, 1, across, 1)
        )
        return Member(name, weight, ids, (rows, columns))

    return zeros_in_place(model, ignore, kind="blocks", member=member)
