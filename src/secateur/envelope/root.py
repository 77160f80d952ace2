"""The one scalar equation of this room: the continuous quadratic knapsack.

In: slopes, offsets and costs (..., m) and a level (...,). Out: the root t (...,) of

    sum_j costs_j clip(t slope_j - offset_j, 0, 1) = level,

a monotone, piecewise linear function of t with two breakpoints a group (docs/math.md, section 6).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from secateur.kernels import dispatch

Array = TypeVar("Array", Tensor, np.ndarray)

FREE_PASSES = 10  # from then on every pass halves the bracket
HALVINGS = 64  # after which no float64 is left in it


@torch.no_grad()
def root(
    slope: Tensor,
    offset: Tensor,
    costs: Tensor,
    level: Tensor,
    *,
    start: Tensor | None = None,
) -> Tensor:
    """Find the t at which the clipped lines cost exactly the level.

        sum_j costs_j clip(t slope_j - offset_j, 0, 1) = level

    Where all groups with a slope fit in the level, t is inf. Where the function is flat at the
    level, any point of the flat piece may be returned: all give the same multipliers.

    Args:
        slope: (..., m), 0 or more; a floating dtype, float64 for full accuracy.
        offset: broadcasts to slope, 0 or more.
        costs: broadcasts to slope, above 0.
        level: (...,), above 0.
        start: (...,), a guess of t, such as the last step's root; changes only the time.

    Returns:
        t (...,), without a gradient; NaN for a row that holds a NaN. What it spends meets the
        level to a few units of rounding of sum_j costs_j (1 + offset_j).

    Example:
        >>> slope = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
        >>> zero, one = torch.zeros_like(slope), torch.ones_like(slope)
        >>> t = root(slope, zero, one, torch.tensor(2.0, dtype=torch.float64))
        >>> multipliers_at_root(t, slope, zero)
        tensor([1.0000, 0.6667, 0.3333], dtype=torch.float64)

    Source: K. C. Kiwiel, "Breakpoint searching algorithms for the continuous quadratic knapsack
    problem", Mathematical Programming 112, 2008, for the background. Departure: no breakpoints are
    sorted; Newton's method is confined to a bracket.
    """
    if slope.shape[-1] == 0:
        return torch.full_like(level, torch.inf)
    if loops := dispatch.loops(slope):
        return loops.root(slope, offset, costs, level, start)[0].to(level)
    return _newton(slope, offset, costs, level, start)


def multipliers_at_root(t: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Evaluate clip(t slope - offset, 0, 1), (..., m); t = inf keeps every group with a slope."""
    largest = torch.finfo(slope.dtype).max  # so that inf * 0 is 0
    return (t.unsqueeze(-1).clamp(max=largest) * slope - offset).clamp_(0, 1)


def shares(kept: Array, whole: Array) -> Array:
    """kept / whole, and 1 where whole is 0: what nothing presses on stays as it is."""
    untouched = whole == 0
    return (kept + untouched) / (whole + untouched)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def multipliers_by_segment(
    slope: Tensor, offset: Tensor, level: Tensor, bounds: Tensor, *, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Solve one problem a segment, such as one a layer, in one call; all costs are 1.

    Args:
        slope: (m,), 0 or more.
        offset: (m,) or a number, 0 or more.
        level: (segments,), above 0.
        bounds: int64 (segments + 1,): segment i is slope[bounds[i] : bounds[i + 1]].
        start: (segments,), guesses of the roots.

    Returns:
        (u, t): clip(t slope - offset, 0, 1), (m,), and the roots (segments,), as of `root`.

    Example:
        >>> slope = torch.tensor([4.0, 2.0, 1.0, 3.0, 3.0], dtype=torch.float64)
        >>> level, bounds = torch.tensor([2.0, 1.0]).double(), torch.tensor([0, 3, 5])
        >>> multipliers_by_segment(slope, torch.zeros_like(slope), level, bounds)[0]
        tensor([1.0000, 0.6667, 0.3333, 0.5000, 0.5000], dtype=torch.float64)
    """
    one = torch.ones((), dtype=slope.dtype, device=slope.device)
    sizes = bounds.diff()
    if loops := dispatch.loops(slope):
        t = loops.root(slope, offset, one, level, start, bounds=bounds)[0].to(level)
    else:  # a row a segment, filled up with lines that spend nothing
        inside = torch.arange(int(sizes.max()), device=slope.device) < sizes.unsqueeze(1)
        table, shift = slope.new_zeros(inside.shape), slope.new_zeros(inside.shape)
        table[inside], shift[inside] = slope, offset.expand_as(slope).to(slope)
        t = root(table, shift, one, level, start=start)
    each = t.repeat_interleave(sizes)
    return multipliers_at_root(each, slope.unsqueeze(1), offset.unsqueeze(-1)).squeeze(1), t


def _newton(
    slope: Tensor, offset: Tensor, costs: Tensor, level: Tensor, start: Tensor | None
) -> Tensor:
    """Step to the root of the linear piece around t, inside a bracket, until it is that of all.

    The function is neither convex nor concave, so steps may cycle: after FREE_PASSES, the bracket
    is halved instead. As newton() of _fused.c, but for all rows at once; NaN gives NaN.
    """
    weighted, rounding = costs * slope, torch.finfo(slope.dtype).eps
    total, offsets = weighted.sum(-1), (costs * offset).expand_as(slope).sum(-1)
    low = torch.zeros_like(level)
    high = torch.full_like(level, torch.finfo(level.dtype).max)
    fits = ((slope > 0) * costs).sum(-1) <= level
    t = torch.where(fits, torch.inf, low)
    t = torch.where((level + total + offsets).isnan(), torch.nan, t)
    done, step = t != 0, (level + offsets) / total  # the root if nothing was clipped
    if start is not None:
        step = torch.where(start.isfinite() & (start > 0), start, step)
    for number in range(FREE_PASSES + HALVINGS):
        middle = _between(low, high)
        inside = (step > low) & (step < high) & (number < FREE_PASSES)
        t = torch.where(done, t, torch.where(inside, step, middle))
        done = done | (t == low)  # nothing lies between low and high
        line = t.unsqueeze(-1) * slope - offset
        rate = (weighted * ((line > 0) & (line < 1))).sum(-1)
        spent = (line.clamp_(0, 1) * costs).sum(-1)
        low, high = torch.where(spent <= level, t, low), torch.where(spent <= level, high, t)
        step = t + (level - spent) / rate
        met = (spent - level).abs() <= 8 * rounding * (level + t * rate)
        met |= (step - t).abs() <= 4 * rounding * t
        t = torch.where(met & ~done & (step >= low) & (step <= high), step, t)
        done = done | met
        if not slope.is_meta and bool(done.all()):
            break
    return t


def _between(low: Tensor, high: Tensor) -> Tensor:
    """Halve how many numbers lie between two: positive floats are ordered like their bits."""
    bits = torch.int64 if low.dtype == torch.float64 else torch.int32
    a, b = low.view(bits), high.view(bits)
    return (a + (b - a) // 2).view(low.dtype)
