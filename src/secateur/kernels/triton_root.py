"""Kernels of the scalar root: root.py's equation for many rows of lines, all of it on a GPU.

In and out: pointers (gpu.py gives them). A row is solved by `few` where it fits in one program's
registers, else `few` guesses from a sample, `sweep` improves on it, one launch a pass over all
multiprocessors, and `finish` ends what is not yet exact. Each is as _fused.c's newton().

A row's search is a state of five numbers: the bracket, the t to look at, whether that is the root,
and how often all its lines were looked at.
"""
# Triton reads annotations as they are: without `from __future__ import annotations`.

import triton
import triton.language as tl

LARGEST = tl.constexpr(1.7976931348623157e308)  # of float64
ROUNDING = tl.constexpr(2.0**-52)
FREE_PASSES = tl.constexpr(10)  # from then on every other pass halves the bracket
REACH = tl.constexpr(16.0)  # how far to look beyond t where the bracket is still open
MOST_PASSES = tl.constexpr(10 + 2 * 64)
STATE = tl.constexpr(8)  # five numbers, in steps that keep all rows aligned
SUMS = tl.constexpr(3)


@triton.jit
def few(slope, offset, offset_row, offset_line, cost, cost_row, cost_line, bounds, level, start,
        state, BLOCK: tl.constexpr):  # fmt: skip
    """Solve a row of up to BLOCK lines; of a longer one a sample, for a guess if none is given."""
    row = tl.program_id(0).to(tl.int64)
    first, stop = tl.load(bounds + row), tl.load(bounds + row + 1)
    every = tl.maximum(tl.cdiv(stop - first, BLOCK), 1)
    line = first + tl.arange(0, BLOCK) * every
    inside = line < stop
    slopes = tl.abs(tl.load(slope + line, inside, 0.0).to(tl.float64))
    offsets = tl.load(offset + row * offset_row + line * offset_line, inside, 0.0)
    costs = tl.load(cost + row * cost_row + line * cost_line, inside, 0.0)
    guess, whole = tl.load(start + row), every == 1
    share = tl.load(level + row) / every
    low, high = tl.full((), 0.0, tl.float64), tl.full((), LARGEST, tl.float64)
    total = tl.sum(costs * slopes, 0)
    rising = total > 0  # pyright: ignore[reportOperatorIssue]
    t = (share + tl.sum(costs * offsets, 0)) / tl.where(rising, total, 1.0)  # if none is clipped
    t = tl.where((t > low) & (t < high), t, 1.0)
    given = (guess > 0) & (guess < LARGEST)
    t = tl.where(given, guess, t)
    settled = (given & (every > 1)).to(tl.int32)
    passes = tl.full((), 0, tl.int32)
    while (passes < MOST_PASSES) & (settled == 0):
        spent, rate, available = _spent(slopes, offsets, costs, t)
        spent, rate, available = tl.sum(spent, 0), tl.sum(rate, 0), tl.sum(available, 0)
        passes += 1
        low, high, t, settled = _advance(low, high, t, passes, share, spent, rate, available)
    found = (t > 0) & (t < LARGEST)
    t = tl.where(whole | found, t, 1.0)  # a sample of zeros only
    low, high = tl.full((), 0.0, tl.float64), tl.full((), LARGEST, tl.float64)
    _store(state + row * STATE, low, high, t, whole.to(tl.int32), tl.where(whole, passes, 0))


@triton.jit
def sweep(slope, offset, offset_row, offset_line, cost, cost_row, cost_line, bounds, level,
          state, sums, next_state, next_sums,
          FIRST: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One pass over a row, a chunk a program: go on by the last pass's sums, and sum up anew.

    Every program takes the same step from the same sums, so that none waits for another.
    """
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, stop = tl.load(bounds + row), tl.load(bounds + row + 1)
    low, high, t, settled, passes = _load(state + row * STATE)
    if not FIRST:
        low, high, t, settled = _after(
            sums + row * CHUNKS * SUMS, level + row, low, high, t, settled, passes, CHUNKS
        )
    passes += 1 - settled
    if chunk == 0:
        _store(next_state + row * STATE, low, high, t, settled, passes)
    if settled == 0:
        length = tl.cdiv(stop - first, CHUNKS)
        begin = first + chunk * length
        spent, rate, available = _swept(
            slope, offset + row * offset_row, offset_line, cost + row * cost_row, cost_line,
            begin, tl.minimum(begin + length, stop), t, BLOCK,
        )  # fmt: skip
        out = next_sums + (row * CHUNKS + chunk) * SUMS
        tl.store(out, spent)
        tl.store(out + 1, rate)
        tl.store(out + 2, available)


@triton.jit
def finish(slope, offset, offset_row, offset_line, cost, cost_row, cost_line, bounds, level,
           state, sums, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Go on until the row's root is exact, one program a row; no further where it is already."""
    row = tl.program_id(0).to(tl.int64)
    first, stop = tl.load(bounds + row), tl.load(bounds + row + 1)
    low, high, t, settled, passes = _load(state + row * STATE)
    if CHUNKS:
        low, high, t, settled = _after(
            sums + row * CHUNKS * SUMS, level + row, low, high, t, settled, passes, CHUNKS
        )
    target = tl.load(level + row)
    while (passes < MOST_PASSES) & (settled == 0):
        spent, rate, available = _swept(
            slope, offset + row * offset_row, offset_line, cost + row * cost_row, cost_line,
            first, stop, t, BLOCK,
        )  # fmt: skip
        passes += 1
        low, high, t, settled = _advance(low, high, t, passes, target, spent, rate, available)
    _store(state + row * STATE, low, high, t, settled, passes)


@triton.jit
def _after(sums, level, low, high, t, settled, passes, CHUNKS: tl.constexpr):
    """The search after a pass whose sums lie in CHUNKS places, added up in a fixed order.

    A search that has settled stays as it is: no pass wrote sums for it.
    """
    place = sums + tl.arange(0, CHUNKS) * SUMS
    fresh = settled == 0
    spent, rate = tl.sum(tl.load(place), 0), tl.sum(tl.load(place + 1), 0)
    available = tl.sum(tl.load(place + 2), 0)
    low_, high_, t_, settled_ = _advance(
        low, high, t, passes, tl.load(level), spent, rate, available
    )
    low, high = tl.where(fresh, low_, low), tl.where(fresh, high_, high)
    return low, high, tl.where(fresh, t_, t), tl.where(fresh, settled_, settled)


@triton.jit
def _swept(slope, offset, offset_line, cost, cost_line, begin, stop, t, BLOCK: tl.constexpr):
    """`_spent` of the lines from begin to stop, added up."""
    spent = tl.zeros((BLOCK,), tl.float64)
    rate = tl.zeros((BLOCK,), tl.float64)
    available = tl.zeros((BLOCK,), tl.float64)
    for first in range(begin, stop, BLOCK):
        line = first + tl.arange(0, BLOCK)
        inside = line < stop
        slopes = tl.abs(tl.load(slope + line, inside, 0.0).to(tl.float64))
        offsets = tl.load(offset + line * offset_line, inside, 0.0)
        costs = tl.load(cost + line * cost_line, inside, 0.0)
        more_spent, more_rate, more_available = _spent(slopes, offsets, costs, t)
        spent += more_spent
        rate += more_rate
        available += more_available
    return tl.sum(spent, 0), tl.sum(rate, 0), tl.sum(available, 0)


@triton.jit
def _spent(slopes, offsets, costs, t):
    """What each line spends at t, its rate there, and what it can spend; NaN if it is not finite.

    A line that stands for none has a cost of 0.
    """
    line = t * slopes - offsets
    above = tl.where(line < 0, 0.0, line)
    spent = costs * tl.where(above > 1, 1.0, above)
    rate = tl.where((line > 0) & (line < 1), costs * slopes, 0.0)
    sound = (slopes <= LARGEST) & (offsets <= LARGEST) & (costs <= LARGEST)
    available = tl.where(sound, tl.where(slopes > 0, costs, 0.0), float("nan"))
    return spent, rate, available


@triton.jit
def _advance(low, high, t, passes, level, spent, rate, available):
    """Newton's step from t, kept inside the bracket; whether it has found the root."""
    fits = spent <= level
    low, high = tl.where(fits, t, low), tl.where(fits, high, t)
    rising = rate > 0
    step = t + (level - spent) / tl.where(rising, rate, 1.0)
    met = tl.abs(spent - level) <= 8 * ROUNDING * (level + t * rate)
    met = met | (rising & (tl.abs(step - t) <= 4 * ROUNDING * t))
    root = tl.where(rising & (step >= low) & (step <= high), step, t)
    middle = _between(low, high)
    closed = middle == low
    halve = (passes >= FREE_PASSES) & (passes % 2 == 1)
    near = _between(
        tl.where(low > 0, low, high / REACH), tl.where(high < LARGEST, high, low * REACH)
    )  # where the bracket is still open at one end, not too far away
    newton = rising & (step > low) & (step < high)
    t = tl.where(halve, middle, tl.where(newton, step, tl.where(near < high, near, middle)))
    t = tl.where(met, root, tl.where(closed, low, t))
    never = available <= level
    unsound = (available != available) | (level != level)
    t = tl.where(never, float("inf"), tl.where(unsound, float("nan"), t))
    return low, high, t, (met | closed | never | unsound).to(tl.int32)


@triton.jit
def _between(low, high):
    """Halve how many doubles lie in the bracket: positive ones are ordered like their bits."""
    a, b = low.to(tl.int64, bitcast=True), high.to(tl.int64, bitcast=True)
    return (a + (b - a) // 2).to(tl.float64, bitcast=True)


@triton.jit
def _load(state):
    """Read a row's state."""
    low, high, t = tl.load(state), tl.load(state + 1), tl.load(state + 2)
    return low, high, t, tl.load(state + 3).to(tl.int32), tl.load(state + 4).to(tl.int32)


@triton.jit
def _store(state, low, high, t, settled, passes):
    tl.store(state, low)
    tl.store(state + 1, high)
    tl.store(state + 2, t)
    tl.store(state + 3, settled.to(tl.float64))
    tl.store(state + 4, passes.to(tl.float64))
