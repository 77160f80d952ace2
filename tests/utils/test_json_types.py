"""What is read is of the type that was asked for, or refused with its place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from secateur.utils.json import read_json, typed


@dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[int, ...]
    share: float | None = None


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    pair: tuple[int, str]
    by_number: dict[int, list[bool]]
    facts: Mapping[str, Any]


GOOD = """{"parts": [{"name": "a", "sizes": [1, 2], "share": 0.5}, {"name": "b", "sizes": []}],
"pair": [3, "c"], "by_number": {"0": [true]}, "facts": {"x": [1, {"y": null}]}}"""


def test_types_come_from_the_hints():
    assert read_json(GOOD, Whole) == Whole(
        (Part("a", (1, 2), 0.5), Part("b", ())),
        (3, "c"),
        {0: [True]},
        {"x": [1, {"y": None}]},
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1, 2]", "[1, true]", r"parts\[0\]\.sizes\[1\]: expected an integer, got True"),
        ("[1, 2]", "[1, 2.0]", r"parts\[0\]\.sizes\[1\]: expected an integer, got 2\.0"),
        ("[1, 2]", "12", r"parts\[0\]\.sizes: expected a list, got 12"),
        ("[1, 2]", str([10**400]), r"parts\[0\]\.sizes\[0\]: expected an integer, got 1000"),
        ('"b"', "null", r"parts\[1\]\.name: expected text, got None"),
        ("0.5", '"0.5"', r"parts\[0\]\.share: expected a number or null, got '0\.5'"),
        ("0.5", "NaN", r"parts\[0\]\.share: expected a number or null, got nan"),
        ("0.5", "1e999", r"parts\[0\]\.share: expected a number or null, got inf"),
        ("0.5", "true", r"parts\[0\]\.share: expected a number or null, got True"),
        ('"share"', '"sharing"', r"parts\[0\]: unknown field 'sharing'"),
        ('"sizes": []', '"share": 1', r"parts\[1\]: the field 'sizes' is missing"),
        ('[3, "c"]', "[3]", r"pair: expected a list of 2, got \[3\]"),
        ('{"0"', '{"00"', r"by_number\['00'\]: expected an integer, got '00'"),
        ('{"0"', '{"-1"', r"by_number\['-1'\]: expected an integer, got '-1'"),
        ("[true]", "[1]", r"by_number\['0'\]\[0\]: expected true or false, got 1"),
        ('{"0": [true]}', "[]", r"by_number: expected an object, got \[\]"),
        ('{"name": "b", "sizes": []}', "[]", r"parts\[1\]: expected an object, got \[\]"),
        ("null}", "[" * 40 + "]" * 40 + "}", "more than 32 deep"),
        ("null}", "[" * 100_000, "more than 32 deep"),
        ("null}", "null", "Expecting"),
    ],
)
def test_what_is_of_another_type_is_named_with_its_place(old, new, message):
    assert old in GOOD
    with pytest.raises(ValueError, match=message):
        read_json(GOOD.replace(old, new, 1), Whole)


def test_the_whole_may_be_of_another_type():
    with pytest.raises(ValueError, match=r"^expected an object, got \[1\]"):
        read_json("[1]", Whole)


def test_integers_pass_for_numbers_and_stay_what_they_are():
    assert type(read_json("2", float)) is int
    with pytest.raises(ValueError, match="expected a number, got 1000"):
        read_json(str(10**400), float)


def test_infinite_numbers_pass_where_they_are_expected():
    assert math.isnan(typed(math.nan, float | None, finite=False))
    assert read_json("[Infinity]", list[Any]) == [math.inf]
