"""An amount in words: a share such as "25%", or an absolute number such as "1.5M" or "2MiB".

In: text. Out: a float in (0, 1], or an int.
"""

from __future__ import annotations

import re
from decimal import Decimal

THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZES = {"B": 1, **{f"{p}B": n for p, n in THOUSANDS.items() if p}}
SIZES |= {f"{p}iB": 1024 ** (i + 1) for i, p in enumerate("KMGT")} | {"KB": 1000}


def read_amount(measure: str, amount: str, shown: str) -> float | int:
    """Read an amount of any measure but latency: a share as a float, an absolute number as an int.

    Args:
        measure: which, since bytes have units of their own.
        amount: such as "25%", "0.25", "1.5M" or "2MiB".
        shown: what an error begins with.

    Raises:
        ValueError: it is neither; the error says what to write.

    Example:
        >>> read_amount("flops", "25%", ""), read_amount("bytes", "2MiB", "")
        (0.25, 2097152)
    """
    units = SIZES if measure in ("bytes", "memory") else THOUSANDS
    example = "2MiB" if units is SIZES else "60" if measure == "groups" else "1.5M"
    hint = f"write a share such as 25% or 0.25, or an absolute number such as {example}"
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(?:e(\d\d?))?\s*(%|[A-Za-z]*)", amount)
    if found is None:
        raise ValueError(f"{shown}: can't read {amount!r}; {hint}")
    number = Decimal(found[1]).scaleb(int(found[2] or 0))
    unit = found[3]
    if unit == "%":
        if not 0 < number <= 100:
            raise ValueError(f"{shown}: a share lies above 0% and up to 100%; {hint}")
        return float(number / 100)
    if not unit and "." in found[1]:
        if not 0 < number <= 1:
            raise ValueError(f"{shown}: a share without % lies in (0, 1]; {hint}")
        return float(number)
    if not unit and measure != "groups" and number <= 100:
        raise ValueError(
            f"{shown}: {amount} {measure}, or {amount}%? write {measure}={amount}% for a "
            f"share, or an absolute number such as {example}"
        )
    if unit and unit not in units:
        known = ", ".join(name for name in ("%", *units) if name)
        raise ValueError(f"{shown}: unknown unit {unit!r}; known for {measure}: {known}")
    return int(number * units.get(unit, 1))
