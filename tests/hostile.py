"""Wrong JSON: a good text, and something else in the place of each kind of its parts in turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

DEEP = "\0deep"  # stands for more lists inside one another than any parser takes
WRONG = [
    *(None, True, -1, 1.5, 10**400, float("nan"), float("inf"), "", "x", [], {}, [[]], [None]),
    *({"x": None}, {"": {"": {}}}, DEEP),
]


def hostile(text: str) -> Iterator[tuple[str, str]]:
    """Where something is wrong, and the whole text with it."""
    for place, changed in _changed(json.loads(text)):
        written = json.dumps(changed)
        yield place, written.replace(json.dumps(DEEP), "[" * 5_000 + "]" * 5_000)


def _changed(value: Any) -> Iterator[tuple[str, Any]]:
    for wrong in WRONG:
        yield f" = {str(wrong)[:20]}", wrong
    if isinstance(value, dict):
        for name, item in value.items():
            others = {key: other for key, other in value.items() if key != name}
            yield f"[{name!r}] missing", others
            yield f"[{name!r}] renamed", {**others, f"{name}?": item}
            for place, wrong in _changed(item):
                yield f"[{name!r}]{place}", {**value, name: wrong}
    elif isinstance(value, list):
        for i, item in enumerate(value[:1]):
            yield f"[{i}] missing", value[:i] + value[i + 1 :]
            for place, wrong in _changed(item):
                yield f"[{i}]{place}", [*value[:i], wrong, *value[i + 1 :]]
