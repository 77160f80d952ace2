"""The one scalar equation of this room: the continuous quadratic knapsack.

In: slopes, offsets and costs (..., m) and a level (...,). Out: the root t (...,) of

    sum_j costs_j clip(t slope_j - offset_j, 0, 1) = level,

a monotone, piecewise linear function of t with two breakpoints a group (docs/math.md, section 6).
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from secateur.kernels import dispatch

Array = TypeVar("Array", Tensor, np.ndarray)

Method = Literal["auto", "fused", "sorted", "newton"]
# From this many groups a row on, a CPU is faster with Newton (benchmarks/speed/envelope.py).
NEWTON_FROM = 1024
SAMPLE = 1024  # groups whose root Newton starts from, where there are many times as many
NEWTON_PASSES = 24


@torch.no_grad()
def root(
    slope: Tensor,
    offset: Tensor,
    costs: Tensor,
    level: Tensor,
    *,
    start: Tensor | None = None,
    method: Method = "auto",
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
        start: (...,), a guess of t (the last step's root), used by "fused" and "newton".
        method: "fused" is Newton's method in compiled loops (dispatch.py) where they take it.
            "sorted" searches the sorted breakpoints: never waits for the device, a number of
            passes fixed by m. "newton" is the faster of the two for many groups on a CPU. "auto"
            chooses the fastest.

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
    problem", Mathematical Programming 112, 2008, for both methods' background. Departures: the
    breakpoints are searched by bisection, with the function summed anew at each (prefix sums lose
    all digits when slopes span many orders of magnitude), and Newton is confined to a bracket.
    """
    if slope.shape[-1] == 0:
        return torch.full_like(level, torch.inf)
    if method in ("auto", "fused") and (loops := dispatch.loops(slope)):
        return loops.root(slope, offset, costs, level, start)[0].to(level)
    if method in ("auto", "fused"):
        newton = slope.device.type == "cpu" and slope.shape[-1] >= NEWTON_FROM
        method = "newton" if newton else "sorted"
    if method == "newton":
        found = _newton(slope, offset, costs, level, start)
    else:
        found = _sorted(slope, offset, costs, level)
    fits = ((slope > 0) * costs).sum(-1) <= level
    return torch.where(fits & ~found.isnan(), torch.inf, found)


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


def _spent(t: Tensor, slope: Tensor, offset: Tensor, costs: Tensor) -> Tensor:
    return (multipliers_at_root(t, slope, offset) * costs).sum(-1)


def _full_at(slope: Tensor, offset: Tensor) -> Tensor:
    """Find where each line reaches 1; 0 for a flat line, which never does."""
    largest = torch.finfo(slope.dtype).max
    return torch.where(slope == 0, 0, (1 + offset) / slope).clamp(max=largest)


def _between(
    low: Tensor, high: Tensor, spent_low: Tensor, spent_high: Tensor, level: Tensor
) -> Tensor:
    """Solve the straight line through two points; the lower one where the line is flat."""
    rise = spent_high - spent_low
    return low + (level - spent_low) / torch.where(rise == 0, 1, rise) * (high - low)


def _sorted(slope: Tensor, offset: Tensor, costs: Tensor, level: Tensor) -> Tensor:
    """Bisect the sorted breakpoints; between two neighbours the function is one straight line."""
    empty_at = torch.where(slope == 0, 0, offset / slope)
    breakpoints = torch.cat([empty_at, _full_at(slope, offset)], dim=-1).sort(dim=-1).values
    last = breakpoints.shape[-1] - 1
    below = torch.full_like(level, -1, dtype=torch.long)  # -1 stands for t = 0, where 0 is spent
    above = torch.full_like(below, last)
    low, high = torch.zeros_like(level), breakpoints[..., last]
    spent_low, spent_high = torch.zeros_like(level), _spent(high, slope, offset, costs)
    for _ in range(last.bit_length()):
        middle = (below + above) // 2
        t = breakpoints.gather(-1, middle.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        t = torch.where(middle < 0, 0, t)
        spent = _spent(t, slope, offset, costs)
        fits = spent <= level
        below, above = torch.where(fits, middle, below), torch.where(fits, above, middle)
        low, high = torch.where(fits, t, low), torch.where(fits, high, t)
        spent_low = torch.where(fits, spent, spent_low)
        spent_high = torch.where(fits, spent_high, spent)
    return _between(low, high, spent_low, spent_high, level)


def _newton(
    slope: Tensor, offset: Tensor, costs: Tensor, level: Tensor, start: Tensor | None
) -> Tensor:
    """Step to the root of the current linear piece, inside a bracket, until it stays there.

    The function is neither convex nor concave, so an unguarded step can cycle: one that leaves
    the bracket is replaced by the secant through the bracket's ends. Rows that have not settled
    after NEWTON_PASSES passes are left to the sorted method.
    """
    weighted = costs * slope
    low, high = torch.zeros_like(level), _full_at(slope, offset).amax(-1)
    spent_low, spent_high = torch.zeros_like(level), _spent(high, slope, offset, costs)
    level = torch.minimum(level, spent_high)  # a level nothing can spend would be chased to inf
    total = weighted.sum(-1)
    offsets = (costs * offset).expand_as(slope).sum(-1)
    t = (level + offsets) / torch.where(total == 0, 1, total)  # the root if nothing was clipped
    start = _sampled(slope, offset, costs, level) if start is None else start
    t = torch.where(start.isfinite() & (start > 0), start, t)
    t = torch.minimum(t, high)
    slack = 32 * torch.finfo(slope.dtype).eps
    settled = torch.zeros_like(level, dtype=torch.bool)
    for _ in range(NEWTON_PASSES):
        line = t.unsqueeze(-1) * slope - offset
        rate = (weighted * ((line > 0) & (line < 1))).sum(-1)
        spent = (line.clamp_(0, 1) * costs).sum(-1)
        fits = spent <= level
        low, high = torch.where(fits, t, low), torch.where(fits, high, t)
        spent_low = torch.where(fits, spent, spent_low)
        spent_high = torch.where(fits, spent_high, spent)
        step = t + (level - spent) / rate
        secant = _between(low, high, spent_low, spent_high, level)
        step = torch.where((step >= low) & (step <= high), step, secant)
        at_root = (spent - level).abs() <= slack * (level + t * rate)
        t = torch.where(settled, t, step)
        settled = settled | at_root | spent.isnan() | level.isnan()
        if bool(settled.all()):
            return t
    return torch.where(settled, t, _sorted(slope, offset, costs, level))


def _sampled(slope: Tensor, offset: Tensor, costs: Tensor, level: Tensor) -> Tensor:
    """Guess the root from every so manieth group; NaN where there are few enough to look at all."""
    every = slope.shape[-1] // SAMPLE
    if every < 8:
        return torch.full_like(level, torch.nan)
    few, offset, costs = (x.expand_as(slope)[..., ::every] for x in (slope, offset, costs))
    return _newton(few, offset, costs, level / every, None)
