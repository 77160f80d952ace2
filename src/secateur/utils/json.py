"""JSON from a file that anyone may have written, and JSON that every reader takes.

Text flows in; a dataclass flows out, made by its type hints, or a ValueError that says where in the
file what was expected. Plain values flow in; text flows out, with "NaN", "Infinity" and "-Infinity"
for numbers that JSON doesn't have; and back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from math import inf, isfinite, isnan, nan
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

DEEPEST = 32  # lists and objects inside one another
LARGEST = 2**63  # above all integers: tensors hold no larger ones

T = TypeVar("T")
UNIONS = (Union, UnionType)
TOO_DEEP = f"lists and objects lie more than {DEEPEST} deep inside one another"
WORDS = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}
PLAIN = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


def read_json(text: str, kind: type[T]) -> T:
    """Read JSON as a value of a type.

    Args:
        text: JSON.
        kind: a dataclass, or what its hints may be made of: int, float, str, bool, None, Any,
            dict and Mapping, list, tuple, and unions of these.

    Raises:
        ValueError: it is no JSON, nested too deeply, or not of this type: a field is missing or
            unknown, or a value is another than the hint says.

    Example:
        >>> read_json('{"conv1.weight": {"0": [1, 2.5]}}', dict[str, dict[int, tuple[int, ...]]])
        Traceback (most recent call last):
        ValueError: ['conv1.weight']['0'][1]: expected an integer, got 2.5
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    layer = [value]
    for _ in range(DEEPEST):
        layer = [part for whole in layer for part in _parts(whole)]
    if layer:
        raise ValueError(TOO_DEEP)
    return typed(value, kind)


def typed(value: Any, kind: Any, where: str = "", *, finite: bool = True) -> Any:
    """What `json.loads` gave, as a value of a type; lists become tuples, and names integers.

    Args:
        value: plain values, lists and dicts.
        kind: see `read_json`.
        where: the value stands in the file.
        finite: refuse numbers that are infinite or none.

    Raises:
        ValueError: it is not of this type.
    """
    origin, inside = get_origin(kind) or kind, get_args(kind)
    at = f"{where}: " if where else ""

    def part(value: Any, kind: Any, place: str) -> Any:
        return typed(value, kind, f"{where}{place}".removeprefix("."), finite=finite)

    if kind is Any:
        return value
    if origin in UNIONS:
        for own in inside:
            with suppress(ValueError):
                return part(value, own, "")
    elif isinstance(value, dict) and is_dataclass(kind):
        _check_fields(value, kind, at)
        hints, make = get_type_hints(kind), cast(Any, kind)
        return make(**{name: part(item, hints[name], f".{name}") for name, item in value.items()})
    elif isinstance(value, dict) and origin in (dict, Mapping):
        places = [(name, f"[{short(name)}]") for name in value]
        return {
            part(_key(name, inside[0]), inside[0], place): part(value[name], inside[1], place)
            for name, place in places
        }
    elif isinstance(value, list) and origin in (list, tuple):
        alike = origin is list or ... in inside
        if alike and all(_is_plain(item, inside[0], finite) for item in value):
            return origin(value)  # of millions of indices, at once
        kinds = inside[:1] * len(value) if alike else inside
        if len(kinds) == len(value):
            pairs = enumerate(zip(value, kinds, strict=True))
            return origin(part(item, own, f"[{i}]") for i, (item, own) in pairs)
    elif _is_plain(value, kind, finite):
        return value
    expected = " or ".join(dict.fromkeys(map(_words, inside if origin in UNIONS else [kind])))
    raise ValueError(f"{at}expected {expected}, got {short(value)}")


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _is_plain(value: Any, kind: Any, finite: bool) -> bool:
    if type(value) is int and kind in (int, float):
        return abs(value) < LARGEST
    return type(value) is kind and (kind is not float or isfinite(value) or not finite)


def _key(name: str, kind: Any) -> Any:
    """A name in an object, which JSON has as text only."""
    return int(name) if kind is int and re.fullmatch(r"0|[1-9]\d{,18}", name, re.ASCII) else name


def _check_fields(value: Mapping[str, Any], kind: Any, at: str) -> None:
    known = {field.name: field for field in fields(kind)}
    if unknown := value.keys() - known.keys():
        raise ValueError(f"{at}unknown field {short(min(unknown))}")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{at}the field {name!r} is missing")


def _words(kind: Any) -> str:
    if get_origin(kind) is tuple and ... not in get_args(kind):
        return f"a list of {len(get_args(kind))}"
    return PLAIN.get(kind) or ("a list" if get_origin(kind) in (list, tuple) else "an object")


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
    if not isinstance(value, float) or isfinite(value):
        return value
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
