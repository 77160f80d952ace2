"""The report: one well-formed page with the run's figures, self-contained."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from report.facts import DENSE, make_run
from secateur.budget.budget import Line
from secateur.report import Network, Point, Run, html
from secateur.report.sweep import Sweep, SweepTrial
from secateur.report.sweep_page import sweep_html

VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open, or the other way round."""

    def __init__(self):
        super().__init__()
        self.open, self.words = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path):
    return html(make_run(), tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_says_what_was_reached(page):
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    words = " ".join(parser.words)
    for fact in (
        "25.00%",
        "2,300",
        "2,250",
        "97.83%",
        "2 of 8",
        "4.00×",
        "2.00×",
        "90.00%",
        "abacus",
    ):
        assert fact in words, fact


def test_nothing_is_fetched(page):
    without_names = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|src=|href=|@import|url\(|<script|<link", without_names)


def test_words_are_escaped(page):
    assert "A &lt;tiny&gt; network" in page and "<tiny>" not in page
    assert "conv&lt;1&gt;" in page and "sgd &amp; friends" in page


def test_every_drawing_is_named_for_those_who_cannot_see_it(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 7  # widths, four curves, two latencies
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)  # also: well-formed XML
        title = root.find("{http://www.w3.org/2000/svg}title")
        assert root.get("role") == "img" and title is not None
        assert root.get("aria-label") == title.text != ""


def test_a_missed_budget_is_marked(tmp_path):
    missed = (Line("flops", asked=2000, reached=2250, full=9000),)
    page = html(make_run(asked=missed), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "✗ 112.50%" in page


def test_an_early_warning_is_told_and_marked_on_the_loss(tmp_path, page):
    warning = {"step": 4, "warning": "step 4: the loss <jumped>"}
    history = (*make_run().history, warning)
    found = html(make_run(history=history), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Early warnings" in found and "<td>step 4</td><td>the loss &lt;jumped&gt;</td>" in found
    assert found.count("<circle") == 1
    assert "Early warnings" not in page and "<circle" not in page


def test_widths_over_time_have_a_strip_a_layer(tmp_path, page):
    records = [
        {"step": step, "widths": {"conv<1>": 8 - step, "conv2": 4}} for step in range(0, 7, 2)
    ]
    history = (*make_run().history, *records)
    found = html(make_run(history=history), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Width of every layer over the steps of training" in found
    assert "Groups kept in 2 layers over 6 steps" in found
    assert "Width of every layer" not in page


def test_a_run_with_little_to_tell_still_has_a_page(tmp_path):
    bare = make_run(asked=(), widths=(), history=(), checks=(), networks=(Network("a", DENSE),) * 2)
    page = html(bare, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What it costs" in page and "Training" not in page


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_run_whose_scores_and_losses_are_no_numbers_has_a_page_and_facts(odd, tmp_path):
    run = make_run()
    history = [
        {
            **record,
            **{name: odd for name in record if name in ("loss", "held_out_loss", "accuracy")},
        }
        for record in run.history
    ]
    history[0]["loss"] = 1.5
    line = run.asked
    run = make_run(
        history=tuple(history),
        networks=(run.networks[0], replace(run.networks[1], score=odd)),
        frontier=(Point(line, odd), Point(line, 0.5)),
    )
    page = html(run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert (
        "not a number" if math.isnan(odd) else "infinite"
    ) in page and "points are not finite" in page
    assert not re.search(r"\bnan|\binf\b", page)
    path = run.write(tmp_path / "run.json")
    json.loads(path.read_text(), parse_constant=pytest.fail)
    assert repr(Run.read(path)) == repr(run)
    sweep = Sweep(
        "", (SweepTrial("flops=1%", 0, "a", run), SweepTrial("flops=1%", 1, "b", make_run()))
    )
    assert not re.search(r"\bnan|\binf\b", sweep_html(sweep, tmp_path / "s.html").read_text())
    for one in sweep.lines().splitlines():
        json.loads(one, parse_constant=pytest.fail)
