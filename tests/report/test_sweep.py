"""A sweep's table, lines, figure and page tell the same facts."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from report.facts import SMALL, make_run
from secateur.budget.budget import Line
from secateur.report import Network
from secateur.report.sweep import Sweep, SweepTrial, head, rows
from secateur.report.sweep_page import cost_svg, sweep_html

SVG = "{http://www.w3.org/2000/svg}"


def trial(budget: str, seed: int, reached: int, score: float, measure: str = "flops") -> SweepTrial:
    """A run that reached so much of 9,000, asked for 5,000."""
    run = make_run(asked=(Line(measure, asked=5000, reached=reached, full=9000),))
    networks = (run.networks[0], Network("small", replace(SMALL, flops=reached), None, score))
    return SweepTrial(budget, seed, f"runs/{budget}_{seed}", replace(run, networks=networks))


FAILED = SweepTrial("params=1%", 0, "runs/none", failure="ValueError: <too> small")
SWEEP = Sweep(
    "A <tiny> sweep",
    (
        trial("flops=50%", 0, 4500, 0.90),
        trial("flops=50%", 1, 4300, 0.94),
        trial("flops=10%", 0, 900, 0.50),
        trial("flops=10%", 1, 900, 0.70),
        FAILED,
    ),
    {"epochs": "3"},
)


def circles(picture: str) -> list[tuple[float, float]]:
    found = ElementTree.fromstring(picture).iter(f"{SVG}circle")
    return [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in found]


def test_rows_are_means_and_sample_deviations():
    assert head(SWEEP)[2] == "accuracy"
    half, tenth, none = rows(SWEEP)
    # deviations of two: the difference over the root of 2
    assert half == (
        *("flops=50%", "2", "92.00% ± 2.83%", "FLOPs", "5,000"),
        "4,400 ± 141 (48.89%)",
    )
    assert tenth[2:] == ("60.00% ± 14.14%", "FLOPs", "5,000", "900 (10.00%)")
    assert none == ("params=1%", "0 of 1", "–", "", "–", "–")


def test_a_row_for_every_measure_of_a_budget():
    run = make_run(asked=(Line("flops", 50, 40, 100), Line("params", 30, 30, 90)))
    first, second = rows(Sweep("", (SweepTrial("flops=50%,params=30", 0, "", run),)))
    assert first[0] == "flops=50%,params=30" and first[3] == "FLOPs"
    assert second == ("", "", "", "parameters", "30", "30 (33.33%)")


def test_latencies_are_shown_as_times():
    line = Line("latency", asked=2e-3, reached=1.5e-3, full=3e-3)
    (row,) = rows(Sweep("", (SweepTrial("latency=2ms", 0, "", make_run(asked=(line,))),)))
    assert row[4:] == ("2 ms", "1.5 ms (50.00%)")


def test_lines_hold_every_run_and_why_one_failed():
    records = [json.loads(line) for line in SWEEP.lines().splitlines()]
    assert [record.get("score") for record in records] == [0.90, 0.94, 0.50, 0.70, None]
    (line,) = records[1]["asked"]
    assert (line["asked"], line["reached"], line["full"]) == (5000, 4300, 9000)
    assert records[-1]["failed"] == "ValueError: <too> small"


def test_a_dot_a_run_and_a_line_through_the_means():
    picture = cost_svg(SWEEP)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = circles(picture)
    assert x2 == x3 < x1 < x0 and y1 < y0 < y3 < y2  # SVG counts downwards
    assert (x0 - x1) / (x0 - x2) == pytest.approx(200 / 3600, abs=2e-3)
    curve = next(
        p.get("d", "")
        for p in ElementTree.fromstring(picture).iter(f"{SVG}path")
        if "curve" in p.get("class", "")
    )
    left, right = (tuple(map(float, part.split())) for part in curve[1:].split("L"))
    assert left == pytest.approx((x2, (y2 + y3) / 2), abs=0.11)
    assert right == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2), abs=0.11)


def test_budgets_without_a_common_measure_are_drawn_by_flops():
    mixed = Sweep("", (trial("a", 0, 4500, 0.9), trial("b", 0, 900, 0.5, measure="groups")))
    assert "FLOPs, % of the full network" in cost_svg(mixed)
    groups = Sweep("", tuple(trial("b", seed, 900, 0.5, measure="groups") for seed in (0, 1)))
    assert "groups, % of the full network" in cost_svg(groups)


def test_the_page_tells_means_runs_and_failures(tmp_path):
    page = sweep_html(SWEEP, tmp_path / "report.html").read_text()
    for words in (
        "92.00% ± 2.83%",
        "3 budgets, 2 seeds: 5 runs, 1 of them failed.",
        'href="runs/flops%3D50%25_1/report.html"',
        "params=1%, seed 0",
        "ValueError: &lt;too&gt; small",
        "every network is within its budget",
        "abacus",
    ):
        assert words in page, words
    assert "<tiny>" not in page and "http" not in page.replace("http://www.w3.org", "")


def test_a_run_over_its_budget_is_shown_in_red(tmp_path):
    over = Sweep("", (trial("flops=50%", 0, 5001, 0.9),))
    page = sweep_html(over, tmp_path / "report.html").read_text()
    assert '<span class="bad">✗ 5,001 FLOPs</span>' in page
    assert "not every network is" in page


def test_a_sweep_in_which_all_failed_has_a_page(tmp_path):
    page = sweep_html(Sweep("", (FAILED,)), tmp_path / "report.html").read_text()
    assert "too" in page and "<svg" not in page
