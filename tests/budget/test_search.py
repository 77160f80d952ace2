"""The search: any increasing function, in few looks, whatever its slope says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secateur.budget.search import Looked, crossing

FUNCTIONS = {
    "cube": lambda x: (x**3 - 8, 3 * x**2),
    "logarithm": lambda x: (math.log(x / 2), 1 / x),
    "flat at first": lambda x: (max(x - 1, 0) - 1, float(x > 1)),
    "stairs": lambda x: (math.floor(x) / 2 - 1 + 1e-9, 0.0),  # a jump over 0, and no slope at all
    "its slope is wrong": lambda x: (x - 2, 1e-9),
}


@pytest.mark.parametrize("start", [None, 0.0, 1.9, 1e-3, 1e9, math.nan])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_crossing_is_found_from_everywhere(name: str, start: float | None) -> None:
    looks = []

    def look(x: float) -> Looked:
        found, slope = FUNCTIONS[name](x)
        looks.append(x)
        return found, lambda: slope

    assert crossing(look, 1e-6, 1e6, start) == pytest.approx(2, rel=1e-11)
    assert len(looks) <= 64


@pytest.mark.parametrize(("height", "end"), [(-1, 1e6), (1, 1e-6)])
def test_what_never_crosses_ends_at_the_bracket_s_end(height: float, end: float) -> None:
    assert crossing(lambda x: (height, lambda: 0.0), 1e-6, 1e6) == pytest.approx(end, rel=1e-12)


def test_a_piecewise_linear_function_takes_a_step_a_piece() -> None:
    points = np.array([0.5, 1.0, 3.0, 7.0])
    looks = []

    def look(x: float) -> Looked:
        looks.append(x)
        return float(np.maximum(x - points, 0).sum()) - 5, lambda: float((x > points).sum())

    assert crossing(look, 1e-3, 1e3, 3.5) == pytest.approx(19 / 6, rel=1e-12)  # 3 lines are up
    assert len(looks) == 2
