"""`LatencyTarget`: how fast a network is to be, where, and by whose clock.

In: an amount such as 0.5 or "3ms", a runtime, threads, a table. Out: a checked `LatencyTarget`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from secateur.runtimes import check_runtime

UNITS = {"s": 0, "ms": -3, "us": -6, "µs": -6, "ns": -9}  # powers of ten


@dataclass(frozen=True)
class LatencyTarget:
    """A latency to train to: the time of one forward on the groups' example inputs.

    Args:
        amount: a fraction of the full network's latency, a float in (0, 1] or "50%"; or a time
            with its unit, such as "3ms" or "800us".
        runtime: "torch" (the default) or another of `secateur.runtimes.RUNTIMES`.
        threads: how many the runtime uses; by default as many as torch is set to.
        table: a table's file (docs/latency-tables.md). By default one is measured here, once, and
            kept in the user's cache folder. A table of another machine stands for its clock.
        measured: whether the small network is measured before the groups are chosen for good, so
            that it meets the amount on this machine. By default wherever the table is from here.

    Raises:
        ValueError: an amount without a unit, 0 or less, NaN, or above the whole; an unknown
            runtime; threads below 1.
        ImportError: the runtime is missing.

    Example:
        >>> LatencyTarget("800us").seconds, LatencyTarget(0.5).share
        (0.0008, 0.5)
        >>> LatencyTarget(3)
        Traceback (most recent call last):
        ValueError: latency=3: 3 of what? write a time with its unit, such as '3ms', or a ...
    """

    amount: float | str
    runtime: str | None = None
    threads: int | None = None
    table: str | os.PathLike[str] | None = None
    measured: bool | None = None

    def __post_init__(self) -> None:
        share = re.fullmatch(r"\s*(\d+\.?\d*(?:e-?\d+)?|\.\d+)\s*%\s*", str(self.amount))
        if share is not None:
            object.__setattr__(self, "amount", float(Decimal(share[1]) / 100))
        _check(self.amount)
        if self.runtime is not None:
            check_runtime(self.runtime)
        wrong = isinstance(self.threads, bool) or not isinstance(self.threads, Integral)
        if self.threads is not None and (wrong or self.threads < 1):
            raise ValueError(
                f"LatencyTarget(threads={self.threads!r}): an integer of 1 or more, or None"
            )

    @property
    def share(self) -> float | None:
        """The fraction of the full network's latency, or None where the amount is a time."""
        return None if isinstance(self.amount, str) else float(self.amount)

    @property
    def seconds(self) -> float | None:
        """The time, or None where the amount is a fraction."""
        return _seconds(self.amount) if isinstance(self.amount, str) else None

    def limit(self, full: float) -> float:
        """The most that is allowed, in seconds, where the full network takes `full`."""
        return self.seconds if self.seconds is not None else float(self.amount) * full

    def __str__(self) -> str:
        parts = [str(self.amount), *([self.runtime] if self.runtime else [])]
        return " ".join(parts)


def as_latency_target(value: Any, runtime: str | None = None) -> LatencyTarget:
    """What `Budget(latency=, runtime=)` was given, as a `LatencyTarget`.

    Raises:
        ValueError: two runtimes are named.
    """
    if not isinstance(value, LatencyTarget):
        return LatencyTarget(value, runtime=runtime)
    if None in (runtime, value.runtime) or runtime == value.runtime:
        return value if runtime is None else replace(value, runtime=runtime)
    raise ValueError(f"runtime={runtime!r}: the LatencyTarget beside it says {value.runtime!r}")


def _check(amount: Any) -> None:
    shown = f"latency={amount!r}"
    if isinstance(amount, str):
        if _seconds(amount) <= 0:
            raise ValueError(f"{shown}: a time is above 0")
        return
    if isinstance(amount, bool) or not isinstance(amount, Real):
        raise ValueError(
            f"{shown}: expected a fraction in (0, 1] or a time such as '3ms', got "
            f"{type(amount).__name__}"
        )
    if isinstance(amount, Integral) and amount != 1:
        raise ValueError(
            f"{shown}: {amount} of what? write a time with its unit, such as '{amount}ms', or a "
            "fraction in (0, 1]"
        )
    if not 0 < float(amount) <= 1:
        raise ValueError(
            f"{shown}: a fraction lies in (0, 1]; a time is written with its unit, such as '3ms'"
        )


def _seconds(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:e-?\d+)?|\.\d+)\s*([a-zµ]+)\s*", text)
    if found is None or found[2] not in UNITS:
        raise ValueError(
            f"latency={text!r}: write a time with its unit, such as '3ms'; units are "
            f"{', '.join(UNITS)}"
        )
    return float(Decimal(found[1]).scaleb(UNITS[found[2]]))
