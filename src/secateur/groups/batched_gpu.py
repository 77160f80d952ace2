"""All members that lie on a GPU in one call: their sums and their scaling in one launch each.

In: members, and the tensors to look at or to scale. Out: the same as from `Member.add_squares_`,
`add_products_` and `scale_` one by one, which remain for whatever the kernels can't read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from secateur.groups.member import Member
from secateur.groups.memory_layout import Layout, kind, layout
from secateur.kernels import gpu

WORK = 1 << 15  # numbers that one program looks at, about
RUN = 1 << 13  # numbers of one entry that one program looks at, at most
FEW = 1 << 16  # entries of fewer numbers than MANY for which a table is worth its memory
MANY = 8
REMEMBERED = 8  # sets of addresses: parameters stay where they are, gradients may not


@dataclass(frozen=True, eq=False)
class Table:
    """The tiles (triton_groups.py) of all tensors of one dtype on one device.

    Attributes:
        positions: of the members whose tensors these are.
        tiles: int64 (tiles, 8).
        owners: the group of each slot, -1 for none, int64 (slots,).
        order: the slots by their groups, int64 (slots of groups,).
        bounds: where each group begins in that order, int64 (groups + 1,).
        most: slots of one group at most.
    """

    positions: tuple[int, ...]
    tiles: Tensor
    owners: Tensor
    order: Tensor
    bounds: Tensor
    most: int


class OnGpu:
    """Members of one model, ready for the kernels; on other devices they are left as they are.

    Where a member's numbers lie is worked out once for every layout that its tensors come in.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.count = max((member.stop for member in members), default=0)
        self._tables: dict[tuple, tuple[list[Table], list[int]]] = {}
        self._addresses: dict[tuple[int, ...], Tensor] = {}
        self._captured: list[Tensor] = []  # addresses that CUDA graphs will read again

    def add_squares_(
        self, total: Tensor, tensors: Sequence[Tensor | None] | None = None
    ) -> list[int]:
        """Add the square of each group's norm to its entry of `total`, in place.

        Two launches for each dtype: all entries, then all groups. The order in which numbers are
        added up depends on shapes only, so that processes of equal weights come to equal norms.

        Args:
            total: (groups,), on any device.
            tensors: one a member, or None for those that are left out; the parameters if not given.

        Returns:
            The members that were not looked at, by position: they are for `Member.add_squares_`.
        """
        return self._add_squares_(total, self._given(tensors))

    def add_products_(self, total: Tensor, tensors: Sequence[Tensor | None]) -> list[int]:
        """Add the squares of the parameters times tensors to their groups' entries of `total`.

        Args:
            total: (groups,), on any device; changed in place.
            tensors: one a member, such as the gradients, or None for those that are left out.

        Returns:
            The members that were not looked at, by position: they are for `Member.add_products_`.
        """
        given, apart = list(tensors), []
        for position, (tensor, member) in enumerate(zip(given, self.members, strict=True)):
            if tensor is not None and kind(tensor) != kind(member.parameter):
                apart.append(position)
                given[position] = None
        left = self._add_squares_(total, given, self._given(None))
        return sorted([*apart, *left])

    def _add_squares_(
        self,
        total: Tensor,
        given: list[Tensor | None],
        others: list[Tensor | None] | None = None,
    ) -> list[int]:
        tables, left = self._find(given)
        for table in tables:
            device = table.tiles.device
            sums = torch.empty(len(table.owners), dtype=torch.float64, device=device)
            second = self._addresses_of(table, others or given)
            self._launch("squares", table, given, second, sums, TIMES=others is not None)
            mine = torch.empty(self.count, dtype=torch.float64, device=device)
            _add_up_(mine, table, sums)
            total[: self.count] += mine.to(total)
        return left

    def scale_(self, factors: Tensor, tensors: Sequence[Tensor | None] | None = None) -> list[int]:
        """Multiply in place by the groups' factors, (groups,), in one launch for each dtype.

        Groups of factor 1 are neither read nor written.

        Returns:
            The members that were not scaled, by position: they are for `Member.scale_`.
        """
        given = self._given(tensors)
        tables, left = self._find(given)
        for table in tables:
            mine = factors.to(table.tiles.device, torch.float64, non_blocking=True).contiguous()
            self._launch("scale", table, given, table.owners, mine)
            for tensor in _of(table, given):
                if not tensor.is_inference():
                    increment_version(tensor)  # as any operator in place does, for autograd
        return left

    def _given(self, tensors: Sequence[Tensor | None] | None) -> list[Tensor | None]:
        return [member.parameter for member in self.members] if tensors is None else list(tensors)

    def _launch(
        self,
        kernel: str,
        table: Table,
        given: list[Tensor | None],
        *arguments: Tensor,
        **constants: bool,
    ) -> None:
        """Run a kernel of triton_groups.py, a program a tile."""
        from secateur.kernels import triton_groups

        dtype = _of(table, given)[0].dtype
        gpu.launch(
            getattr(triton_groups, kernel),
            len(table.tiles),
            table.tiles,
            self._addresses_of(table, given),
            *arguments,
            DTYPE=getattr(triton_groups.tl, str(dtype).removeprefix("torch.")),
            **constants,
        )

    def _addresses_of(self, table: Table, given: list[Tensor | None]) -> Tensor:
        """Where a table's tensors begin, int64 (tensors,), beside them."""
        addresses = tuple(tensor.data_ptr() for tensor in _of(table, given))
        if addresses not in self._addresses:
            if len(self._addresses) >= REMEMBERED:
                self._addresses.clear()
            self._addresses[addresses] = torch.tensor(addresses, device=table.tiles.device)
        found = self._addresses[addresses]
        if found.is_cuda and torch.cuda.is_current_stream_capturing():
            self._captured.append(found)
        return found

    # -- the tables --------------------------------------------------------------------------------

    def _find(self, given: list[Tensor | None]) -> tuple[list[Table], list[int]]:
        """The tables of these tensors, and the positions of those that the kernels can't read."""
        key = tuple(
            None if tensor is None else (tensor.device, tensor.dtype, tensor.stride())
            for tensor in given
        )
        if key not in self._tables:
            self._tables[key] = self._make(given)
        return self._tables[key]

    def _make(self, given: list[Tensor | None]) -> tuple[list[Table], list[int]]:
        kinds: dict[tuple, list[tuple[int, Layout, np.ndarray]]] = {}
        left = []
        for position, (member, tensor) in enumerate(zip(self.members, given, strict=True)):
            if tensor is not None and tensor.numel():
                found = _layout(member, tensor)
                if found is None:
                    left.append(position)
                else:
                    kinds.setdefault((tensor.device, tensor.dtype), []).append((position, *found))
        tables = [_table(parts, self.count, device) for (device, _), parts in kinds.items()]
        return tables, left


def _of(table: Table, given: list[Tensor | None]) -> list[Tensor]:
    """The tensors of a table."""
    return [given[position] for position in table.positions]  # pyright: ignore[reportReturnType]


def _add_up_(total: Tensor, table: Table, sums: Tensor) -> None:
    from secateur.kernels import triton_groups

    groups, along = len(total), min(64, 1 << (table.most - 1).bit_length())
    across = gpu.BLOCK // along
    slots = sums, table.order, table.bounds
    sizes = {"GROUPS": across, "BLOCK": along}
    gpu.launch(
        triton_groups.totals, -(-groups // across), *slots, groups, table.most, total, **sizes
    )


def _layout(member: Member, tensor: Tensor) -> tuple[Layout, np.ndarray] | None:
    """How a member's numbers lie in a tensor, if the kernels read it; else None."""
    plain = type(member) is Member and type(tensor) in (Tensor, torch.nn.Parameter)
    if not plain or tensor.device.type not in gpu.DEVICES or tensor.layout != torch.strided:
        return None
    if not gpu.able(tensor.device, tensor.dtype):
        return None
    entries = member.ids.numel()
    if entries > FEW and entries * MANY > tensor.numel():  # the table would be the larger one
        return None
    found = layout(member, tensor)
    if found is None:
        return None
    outer, _, groups, _ = found[0]
    return found[0], found[1].reshape(outer, groups).numpy()


def _table(parts: list[tuple[int, Layout, np.ndarray]], groups: int, device: torch.device) -> Table:
    """Cut some tensors into tiles."""
    cuts = [_cut(place, shape, ids) for place, (_, shape, ids) in enumerate(parts)]
    tiles = np.concatenate([tiles for tiles, _ in cuts])
    owners = np.concatenate([owners for _, owners in cuts])
    tiles[:, 7] = np.cumsum(tiles[:, 2]) - tiles[:, 2]
    order = np.argsort(owners, kind="stable")[np.count_nonzero(owners < 0) :]
    counts = np.bincount(owners[owners >= 0], minlength=groups)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    arrays = (torch.from_numpy(array).to(device) for array in (tiles, owners, order, bounds))
    tiles, owners, order, bounds = arrays
    positions = tuple(position for position, *_ in parts)
    return Table(positions, tiles, owners, order, bounds, int(counts.max()))


def _cut(place: int, shape: Layout, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tiles of one tensor, the place-th, int64 (tiles, 8), and the owners of their slots."""
    from secateur.kernels import triton_groups as kernels

    outer, rows, groups, size = shape
    short = kernels.SHORT_ENTRIES if size <= kernels.SHORT.value else kernels.LONG_ENTRIES
    side = (kernels.SINGLE_ENTRIES if size == 1 else short).value
    repeats = max(WORK // (side * min(size, RUN)), 1)
    starts = (range(0, rows, repeats), range(0, groups, side), range(0, size, RUN))
    block, row, first, number = (
        x.ravel() for x in np.meshgrid(np.arange(outer), *map(np.array, starts), indexing="ij")
    )
    tiles = np.zeros((len(block), kernels.COLUMNS.value), np.int64)
    tiles[:, 0] = place
    tiles[:, 1] = ((block * rows + row) * groups + first) * size + number
    tiles[:, 2] = entries = np.minimum(side, groups - first)
    tiles[:, 3] = size
    tiles[:, 4] = np.minimum(RUN, size - number)
    tiles[:, 5] = np.minimum(repeats, rows - row)
    tiles[:, 6] = groups * size
    entry = first[:, None] + np.arange(min(side, groups))
    there = entry < (first + entries)[:, None]
    return tiles, ids[block[:, None], np.minimum(entry, groups - 1)][there]
