"""Drawings: what is drawn has the proportions of the numbers."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from secateur.report import Width, widths_svg
from secateur.report.charts import Series, bars, curves
from secateur.report.svg import ticks
from secateur.report.timeline import timeline_svg

SVG = "{http://www.w3.org/2000/svg}"


def rectangles(picture: str, kind: str) -> list[float]:
    root = ElementTree.fromstring(picture)
    return [float(r.get("width")) for r in root.iter(f"{SVG}rect") if r.get("class") == kind]


def test_bars_of_widths_are_to_one_scale():
    picture = widths_svg([Width("a", 16, 64), Width("b", 32, 32)])
    full, kept = rectangles(picture, "full"), rectangles(picture, "kept")
    assert full[0] == pytest.approx(2 * full[1], rel=1e-2)
    assert kept[0] == pytest.approx(full[0] / 4, rel=1e-2)
    assert kept[1] == full[1]


def test_long_names_keep_both_ends():
    name = "backbone.stages.3.blocks.11.attention.output.dense"
    words = "".join(ElementTree.fromstring(widths_svg([Width(name, 1, 2)])).itertext())
    assert "backbone.stage" in words and "…" in words and "output.dense" in words
    assert name in words  # in the title that a pointer shows


def test_a_strip_is_as_high_as_the_share_that_is_kept():
    history = [
        {"step": 0, "widths": {"a": 8, "b": 4}},
        {"step": 10, "loss": 1.0},
        {"step": 50, "widths": {"a": 4, "b": 4}},
        {"step": 100, "widths": {"a": 2, "b": 4}},
    ]
    picture = timeline_svg(history, [Width("a", 2, 8), Width("b", 4, 4)], at=("chosen", 50))
    paths = list(ElementTree.fromstring(picture).iter(f"{SVG}path"))
    first, second = (p.get("d", "") for p in paths if p.get("class") == "kept")
    across = [float(x) for x in re.findall(r"H([\d.]+)", first)]
    heights = [24 - float(y) for y in re.findall(r"V([\d.]+)", first)][:-1]
    assert heights == pytest.approx([20, 10, 5])  # of 20: all, a half, a quarter
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert len(set(re.findall(r"V([\d.]+)", second)[:-1])) == 1
    mark = next(p.get("d", "") for p in paths if p.get("class") == "mark")
    assert float(mark[1:].split()[0]) == pytest.approx(across[1], abs=0.1)
    assert "2 of 8" in picture and "4 of 4" in picture


def test_nothing_is_drawn_where_widths_are_of_other_layers():
    history = [{"step": step, "widths": {"a": 8}} for step in (1, 2)]
    assert timeline_svg(history, [Width("b", 2, 8)]) == ""
    assert timeline_svg(history[:1], [Width("a", 2, 8)]) == ""
    assert timeline_svg(history, [Width("a", 2, 8)]) != ""


def test_no_layer_is_refused():
    with pytest.raises(ValueError, match="no layer to draw"):
        widths_svg([])


def test_a_curve_goes_through_its_points():
    picture = curves([Series("x", [(0, 0.0), (50, 1.0), (100, 0.5)])], "test")
    path = next(
        p.get("d")
        for p in ElementTree.fromstring(picture).iter(f"{SVG}path")
        if "curve" in p.get("class", "")
    )
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split()) for p in path[1:].split("L"))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 > y2 > y1  # SVG counts downwards
    assert y2 - y1 == pytest.approx((y0 - y1) / 2, abs=0.2)


def test_latency_bars_have_the_ratio_of_the_latencies():
    picture = bars([("dense", 4e-3), ("small", 1e-3)], "test", show=str)
    assert rectangles(picture, "full")[0] == pytest.approx(
        4 * rectangles(picture, "kept")[0], rel=1e-2
    )


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.93), (1, 425), (0, 0), (-3, 7), (0, 1e-6), (5, 5), (0, 1e9)]
)
def test_ticks_cover_the_range_in_few_round_steps(low, high):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high
    assert 2 <= len(found) <= 7
    steps = {round(b - a, 12) for a, b in pairwise(found)}
    assert max(steps) - min(steps) <= 1e-9 * max(steps)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e305])
def test_curves_leave_out_what_is_not_finite_and_say_so(odd):
    points = [(1, 2.0), (2, odd), (3, 1.0)]
    picture = curves([Series("loss", points)], "x", level=("asked", odd), dots=[(2, odd)])
    assert "(2 of 4 points are not finite)" in picture
    assert picture.count("<path") == curves([Series("", points[::2])], "x").count("<path")
    nothing = curves([Series("loss", [(1, odd), (2, odd)])], "x", from_zero=False)
    assert "2 of 2 points" in nothing
    assert "nan" not in picture + nothing and "inf" not in (picture + nothing).replace("finite", "")
    assert rectangles(bars([("a", odd), ("b", 1.0)], "x", show=str), "full") == []


@pytest.mark.parametrize("low", [0.0, 1.0, 1e-15, -3e299, 5e-324])
@pytest.mark.parametrize("apart", [0.0, 1e-16, 1e-13, 1e-3, 1e299])
def test_curves_of_any_finite_numbers_have_an_axis(low, apart):
    for from_zero in (True, False):
        points = [(1, low), (2, low + apart)]
        assert "nan" not in curves([Series("", points)], "x", from_zero=from_zero)
