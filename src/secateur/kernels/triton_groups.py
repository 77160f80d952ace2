"""Kernels over many tensors at once, on a GPU: squares of groups, and scaling.

In and out: pointers (gpu.py gives them). A program has a tile: some groups' entries in one tensor,
which lie a `stride` apart and have `length` numbers each, repeated `repeats` times a `step` apart.
"""
# Triton reads annotations as they are: without `from __future__ import annotations`.

import triton
import triton.language as tl

from secateur.kernels.triton_rows import narrowed, times

# A tile's row in the table: tensor, offset, entries, stride, length, repeats, step, slot.
COLUMNS = tl.constexpr(8)
# Entries side by side and numbers of each that a program looks at together, by an entry's stride:
# single numbers, short runs of them, and long ones.
SHORT = tl.constexpr(128)
SINGLE_ENTRIES, SINGLE_RUN = tl.constexpr(1024), tl.constexpr(1)
SHORT_ENTRIES, SHORT_RUN = tl.constexpr(64), tl.constexpr(16)
LONG_ENTRIES, LONG_RUN = tl.constexpr(4), tl.constexpr(256)


@triton.jit
def squares(tiles, addresses, others, sums, DTYPE: tl.constexpr, TIMES: tl.constexpr):
    """Write the sum of the squares of each entry of a tile to the entry's slot of `sums`.

    TIMES: squares of products with what lies in the same place in the other tensors.
    """
    tile = tiles + tl.program_id(0).to(tl.int64) * COLUMNS
    stride = tl.load(tile + 3)
    if stride == 1:
        _squares(tile, addresses, others, sums, DTYPE, TIMES, SINGLE_ENTRIES, SINGLE_RUN)
    elif stride <= SHORT:
        _squares(tile, addresses, others, sums, DTYPE, TIMES, SHORT_ENTRIES, SHORT_RUN)
    else:
        _squares(tile, addresses, others, sums, DTYPE, TIMES, LONG_ENTRIES, LONG_RUN)


@triton.jit
def scale(tiles, addresses, owners, factors, DTYPE: tl.constexpr):
    """Multiply each entry of a tile by its group's factor; not where that is 1. 0 makes zeros."""
    tile = tiles + tl.program_id(0).to(tl.int64) * COLUMNS
    stride = tl.load(tile + 3)
    if stride == 1:
        _scale(tile, addresses, owners, factors, DTYPE, SINGLE_ENTRIES, SINGLE_RUN)
    elif stride <= SHORT:
        _scale(tile, addresses, owners, factors, DTYPE, SHORT_ENTRIES, SHORT_RUN)
    else:
        _scale(tile, addresses, owners, factors, DTYPE, LONG_ENTRIES, LONG_RUN)


@triton.jit
def totals(sums, order, bounds, groups, most, out, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """Add up each group's slots, always in the same order."""
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    first = tl.load(bounds + group, group < groups, 0)
    stop = tl.load(bounds + group + 1, group < groups, 0)
    found = tl.zeros((GROUPS, BLOCK), tl.float64)
    for begin in range(0, most, BLOCK):
        place = first[:, None] + begin + tl.arange(0, BLOCK)[None, :]
        inside = place < stop[:, None]
        slot = tl.load(order + place, inside, 0)
        found += tl.load(sums + slot, inside, 0.0)
    tl.store(out + group, tl.sum(found, 1), group < groups)


@triton.jit
def _squares(tile, addresses, others, sums, DTYPE: tl.constexpr, TIMES: tl.constexpr,
             ENTRIES: tl.constexpr, RUN: tl.constexpr):  # fmt: skip
    entry = tl.arange(0, ENTRIES)
    there = entry < tl.load(tile + 2)
    first, length, step = _first(tile, addresses, entry, DTYPE)
    other, length, step = _first(tile, others, entry, DTYPE)
    found = tl.zeros((ENTRIES, RUN), tl.float64)
    for repeat in range(tl.load(tile + 5)):
        for begin in range(0, length, RUN):
            number = begin + tl.arange(0, RUN)
            inside = there[:, None] & (number < length)[None, :]
            place = repeat * step + number[None, :]
            given = tl.load(first[:, None] + place, inside, 0.0).to(tl.float64)
            if TIMES:
                given *= tl.load(other[:, None] + place, inside, 0.0).to(tl.float64)
            found += given * given
    tl.store(sums + tl.load(tile + 7) + entry, tl.sum(found, 1), there)


@triton.jit
def _scale(tile, addresses, owners, factors,
           DTYPE: tl.constexpr, ENTRIES: tl.constexpr, RUN: tl.constexpr):  # fmt: skip
    entry = tl.arange(0, ENTRIES)
    there = entry < tl.load(tile + 2)
    first, length, step = _first(tile, addresses, entry, DTYPE)
    owner = tl.load(owners + tl.load(tile + 7) + entry, there, -1)
    factor = tl.load(factors + owner, owner >= 0, 1.0)
    touched = factor != 1
    if tl.max(touched.to(tl.int32), 0) == 1:
        by = narrowed(factor, DTYPE)[:, None]
        for repeat in range(tl.load(tile + 5)):
            for begin in range(0, length, RUN):
                number = begin + tl.arange(0, RUN)
                inside = touched[:, None] & (number < length)[None, :]
                place = first[:, None] + repeat * step + number[None, :]
                scaled = times(tl.load(place, inside, 0.0), by)
                tl.store(place, tl.where(by == 0, tl.zeros_like(scaled), scaled), inside)


@triton.jit
def _first(tile, addresses, entry, DTYPE: tl.constexpr):
    """Where each entry of a tile begins, how long its runs are, and how far apart."""
    tensor = tl.load(addresses + tl.load(tile)).to(tl.pointer_type(DTYPE))  # pyright: ignore
    first = tensor + tl.load(tile + 1) + entry * tl.load(tile + 3)
    return first, tl.load(tile + 4), tl.load(tile + 6)
