"""The one search for budgets whose cost is not a plain sum over the groups.

In: a function that rises, and a bracket. Out: where it crosses 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

MET = 1e-12  # how near to 0 is as good as 0: of a limit, as a share of it


Looked = tuple[float, Callable[[], float]]  # a function's value, and a call for its slope


def crossing(
    look: Callable[[float], Looked], low: float, high: float, start: float | None = None
) -> float:
    """Find x in [low, high] where an increasing, piecewise smooth function is 0.

    Newton's method inside a bracket: where a step leaves it or makes slow progress, the bracket is
    halved (on a log scale).

    Args:
        look: gives the function at x, and a call for its slope there.
        low: above 0; the answer where the function is above 0 in all of the bracket.
        high: the answer where it is below 0 in all of the bracket.
        start: a guess, such as the last step's; changes only the time.

    Example:
        >>> crossing(lambda x: (x**3 - 8, lambda: 3 * x**2), 0.1, 10.0)
        2.0
    """
    x = start if start is not None and low < start < high else math.sqrt(low) * math.sqrt(high)
    last = math.inf
    while True:
        found, slope = look(x)
        low, high = (x, high) if found < 0 else (low, x)
        if abs(found) <= MET or high <= low * (1 + 4e-16):
            return x
        rate = slope()
        step = -found / rate if rate > 0 else math.inf
        if low < x + step < high and abs(step) < last / 2:
            x, last = x + step, abs(step)
        else:
            x, last = math.sqrt(low) * math.sqrt(high), high - low
