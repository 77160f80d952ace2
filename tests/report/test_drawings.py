"""Drawings: what is drawn has the proportions of the numbers."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from secateur.report import Width, widths_svg
from secateur.report.charts import Series, bars, curves
from secateur.report.svg import ticks

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
