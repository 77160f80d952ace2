"""What is infinite or no number survives JSON that every reader takes."""

import json
import math

import pytest

from secateur.utils.json import to_json, with_numbers


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.5, -0.0, 5e-324])
def test_any_number_is_read_back_from_strict_json(number: float) -> None:
    value = {"a": [number, {"b": (number, "words", None, True, 3)}]}
    found = with_numbers(json.loads(to_json(value), parse_constant=refuse))
    assert repr(found) == repr({"a": [number, {"b": [number, "words", None, True, 3]}]})
    assert float(json.loads(to_json([number]))[0]) == number or math.isnan(number)
