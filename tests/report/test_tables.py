"""Tables: the run's figures as words, in the terminal too."""

import io

from rich.console import Console

from report.facts import DENSE, SMALL, make_run
from secateur.report import Network, asked_table, comparison_table
from secateur.report.tables import asked_rows, comparison_rows


def printed(table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_asked_and_reached_are_exact_and_relative():
    (row,) = asked_rows(make_run().asked)
    assert row == ("FLOPs", "9,000", "2,300 (25.56%)", "2,250 (25.00%)", "97.83%")


def test_networks_are_compared_with_the_first():
    rows = {row[0]: row[1:] for row in comparison_rows(make_run().networks, "accuracy")}
    assert rows["parameters"] == ("1 k", "300", "30.0%")
    assert rows["latency, torch"] == ("4 ms", "1 ms", "25.0%")
    assert rows["latency, ONNX Runtime"] == ("2 ms", "1 ms", "50.0%")
    assert rows["test accuracy"] == ("95.00%", "90.00%", "")
    assert "energy" not in rows  # measured by neither


def test_what_was_not_measured_is_not_made_up():
    networks = (Network("dense", DENSE), Network("small", SMALL, 1e-3, 3.25))
    rows = {row[0]: row[1:] for row in comparison_rows(networks, "rmse")}
    assert rows["latency, ONNX Runtime"] == ("unavailable", "1 ms", "")
    assert rows["test rmse"] == ("–", "3.25", "")


def test_ratios_above_two_are_factors():
    rows = {r[0]: r[1:] for r in comparison_rows(make_run().networks[::-1], "accuracy")}
    assert rows["FLOPs"][-1] == "4.00×"


def test_tables_print():
    words = printed(asked_table(make_run().asked)) + printed(
        comparison_table(make_run().networks, "accuracy")
    )
    assert "2,250 (25.00%)" in words and "small / dense" in words
