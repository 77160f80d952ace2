"""JSON that every reader takes, though a number in it is infinite or none.

Plain values flow in; text flows out, with "NaN", "Infinity" and "-Infinity" as strings; and back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Write plain values, nested.

    Example:
        >>> to_json({"score": float("nan"), "losses": [1.5, float("inf")]})
        '{"score": "NaN", "losses": [1.5, "Infinity"]}'
    """
    return json.dumps(_worded(value), indent=indent, allow_nan=False)


def with_numbers(value: Any) -> Any:
    """What was read, with the numbers for which `to_json` writes words.

    Example:
        >>> with_numbers({"losses": [1.5, "-Infinity"]})
        {'losses': [1.5, -inf]}
    """
    if isinstance(value, dict):
        return {name: with_numbers(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [with_numbers(entry) for entry in value]
    return WORDS.get(value, value) if isinstance(value, str) else value


def _worded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _worded(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_worded(entry) for entry in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
