"""Figures as people read them: 1.23 MFLOPs, 4.5 MiB, 3.2 ms; what was not measured: unavailable.

A number flows in; a short text with three significant digits and a unit flows out.
"""

from __future__ import annotations

import math

UNAVAILABLE = "unavailable"
_THOUSANDS = ("", "k", "M", "G", "T", "P")
_KIBIS = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
_THOUSANDTHS = ("", "m", "µ", "n")


def format_quantity(value: float | None, unit: str = "", *, base: int = 1000) -> str:
    """Write a number with three significant digits, a prefix and its unit.

    Args:
        value: The number, or None for what was not measured.
        unit: What follows the prefix, e.g. "FLOPs"; may be empty.
        base: 1000 for k, M, G..., 1024 for Ki, Mi, Gi...

    Returns:
        The text, "unavailable" for None.

    Raises:
        ValueError: The base is neither 1000 nor 1024.

    Example:
        >>> format_quantity(1_234_567, "FLOPs"), format_quantity(570), format_quantity(None)
        ('1.23 MFLOPs', '570', 'unavailable')
    """
    if base not in (1000, 1024):
        raise ValueError(f"format_quantity(base={base}): expected 1000 or 1024.")
    if value is None:
        return UNAVAILABLE
    prefixes = _THOUSANDS if base == 1000 else _KIBIS
    step = 0
    while step + 1 < len(prefixes) and _rounded(abs(value) / base**step) >= base:
        step += 1
    return f"{_digits(value / base**step)} {prefixes[step]}{unit}".strip()


def format_count(value: int | None) -> str:
    """Write a count: `format_count(11_173_962)` is "11.2 M"."""
    return format_quantity(value)


def format_flops(value: int | None) -> str:
    """Write a number of floating-point operations: `format_flops(6912)` is "6.91 kFLOPs"."""
    return format_quantity(value, "FLOPs")


def format_bytes(value: int | None) -> str:
    """Write a number of bytes in powers of 1024: `format_bytes(4_718_592)` is "4.5 MiB"."""
    return format_quantity(value, "B", base=1024)


def format_seconds(value: float | None) -> str:
    """Write a duration: `format_seconds(0.0032)` is "3.2 ms"."""
    return _format_small(value, "s")


def format_joules(value: float | None) -> str:
    """Write an energy: `format_joules(0.0125)` is "12.5 mJ"."""
    return _format_small(value, "J")


def format_measure(measure: str, value: float) -> str:
    """Write a value of a budget's measure: seconds and memory with units, counts in full.

    Example:
        >>> format_measure("latency", 0.0032), format_measure("memory", 2**20)
        ('3.2 ms', '1 MiB')
        >>> format_measure("flops", 1_234_567)
        '1,234,567'
    """
    if math.isnan(value):
        return UNAVAILABLE
    if measure == "latency":
        return format_seconds(value)
    return format_bytes(int(value)) if measure == "memory" else f"{round(value):,}"


def _format_small(value: float | None, unit: str) -> str:
    if value is None:
        return UNAVAILABLE
    if value == 0 or _rounded(abs(value)) >= 1:
        return f"{_digits(value)} {unit}"
    step = 1
    while step + 1 < len(_THOUSANDTHS) and _rounded(abs(value) * 1000**step) < 1:
        step += 1
    return f"{_digits(value * 1000**step)} {_THOUSANDTHS[step]}{unit}"


def _rounded(value: float) -> float:
    """The value with three significant digits, or none behind the point from 100 on."""
    return float(_digits(value))


def _digits(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
