"""Kernels over the rows of one tensor, on a GPU: factors, norms and scaling, a sweep each.

In and out: pointers (gpu.py gives them); they do what cpu.py's functions of these names do.
"""
# Triton reads annotations as they are: without `from __future__ import annotations`.

import triton
import triton.language as tl

LARGEST = tl.constexpr(1.7976931348623157e308)  # of float64


@triton.jit
def factors(slope, lines, size, offset, offset_row, offset_line, root, out,
            FIRM: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The factor of each line at its row's root, written or multiplied into what is there."""
    line = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = line < lines
    row = line // size
    slopes = tl.abs(tl.load(slope + line, inside, 0.0).to(tl.float64))
    offsets = tl.load(offset + row * offset_row + line * offset_line, inside, 0.0)
    t = tl.load(root + row, inside, 0.0)
    t = tl.where(t > LARGEST, LARGEST, t)  # so that inf * 0 is 0
    rising = t * slopes - offsets
    above = tl.where(rising < 0, 0.0, rising)
    kept = tl.where(above > 1, 1.0, above)
    whole = kept + offsets
    top = (1 + offsets) * kept if FIRM else kept
    factor = tl.where(whole == 0, 1.0, top / tl.where(whole == 0, 1.0, whole))
    if SCALE:
        inside = inside & (factor != 1)
        factor *= tl.load(out + line, inside, 0.0).to(tl.float64)
    tl.store(out + line, narrowed(factor, out.dtype.element_ty), inside)


@triton.jit
def norms(values, rows, size, out, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The Euclidean norm of each row, summed in float64."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    squares = tl.zeros((ROWS, BLOCK), tl.float64)
    for first in range(0, size, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (column < size)[None, :]
        given = tl.load(values + row[:, None] * size + column[None, :], inside, 0.0)
        given = given.to(tl.float64)
        squares += given * given
    tl.store(out + row, tl.sqrt(tl.sum(squares, 1)), row < rows)


@triton.jit
def scale(values, rows, size, factors, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Multiply each row by its factor; rows with a factor of 1 are neither read nor written."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    factor = tl.load(factors + row, row < rows, 1.0)
    touched = factor != 1
    by = narrowed(factor, values.dtype.element_ty)[:, None]
    for first in range(0, size, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = touched[:, None] & (column < size)[None, :]
        place = values + row[:, None] * size + column[None, :]
        tl.store(place, times(tl.load(place, inside, 0.0), by), inside)


@triton.jit
def narrowed(numbers, dtype: tl.constexpr):
    """Float64 in another dtype; Triton 3.2 has no step from float64 to half precision."""
    return numbers if dtype == tl.float64 else numbers.to(tl.float32).to(dtype)


@triton.jit
def times(numbers, by):
    """The product of numbers of one dtype, rounded once; half precision as float32."""
    if numbers.dtype == tl.float64:
        return numbers * by
    return (numbers.to(tl.float32) * by.to(tl.float32)).to(numbers.dtype)
