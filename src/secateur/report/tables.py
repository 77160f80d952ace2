"""Terminal tables: asked and reached, and networks side by side.

A run's facts flow in; rich tables flow out, and rows of words that the HTML report shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from secateur.budget.budget import Line
from secateur.costs import LatencyTable
from secateur.measurement import (
    UNAVAILABLE,
    format_bytes,
    format_count,
    format_flops,
    format_joules,
    format_measure,
    format_seconds,
)
from secateur.report.run import Check, Network, Point
from secateur.utils.extras import require

NAMES = {"flops": "FLOPs", "params": "parameters", "bytes": "bytes", "groups": "groups"}


def measure_name(measure: str) -> str:
    """What people call a measure."""
    return NAMES.get(measure, measure)


def asked_rows(lines: Sequence[Line]) -> list[tuple[str, str, str, str, str]]:
    """Measure, full size, asked, reached, share of what was asked."""
    return [
        (
            measure_name(line.measure),
            format_measure(line.measure, line.full),
            f"{format_measure(line.measure, line.asked)} ({line.asked / line.full:.2%})",
            f"{format_measure(line.measure, line.reached)} ({line.reached / line.full:.2%})",
            f"{line.reached / line.asked:.2%}",
        )
        for line in lines
    ]


def frontier_rows(points: Sequence[Point], metric: str) -> list[tuple[str, str, str]]:
    """What each of several networks was asked, what it reached, and its score."""
    return [
        (
            ", ".join(
                f"{line.asked / line.full:.2%} of the {measure_name(line.measure)}"
                for line in point.lines
            ),
            ", ".join(
                f"{format_measure(x.measure, x.reached)} ({x.reached / x.full:.2%})"
                for x in point.lines
            ),
            format_score(point.score, metric),
        )
        for point in points
    ]


def comparison_rows(networks: Sequence[Network], metric: str) -> list[tuple[str, ...]]:
    """One row a figure: its name, each network's value, the last one's share of the first."""
    first, last = networks[0], networks[-1]
    ratios = last.footprint.ratio(first.footprint)

    def row(name: str, figure: str, show: Any) -> tuple[str, ...]:
        values = [show(getattr(network.footprint, figure)) for network in networks]
        return (name, *values, _share(ratios[figure]))

    rows = [
        row("parameters", "params", format_count),
        row("FLOPs", "flops", format_flops),
        row("size", "bytes", format_bytes),
        row("latency, torch", "latency", format_seconds),
    ]
    onnx = [network.onnx_latency for network in networks]
    if any(value is not None for value in onnx):
        before, after = onnx[0], onnx[-1]
        share = after / before if before and after else None
        rows.append(("latency, ONNX Runtime", *map(format_seconds, onnx), _share(share)))
    rows += [
        row("peak memory", "peak_memory", format_bytes),
        row("energy", "energy", format_joules),
    ]
    scores = [network.score for network in networks]
    if any(score is not None for score in scores):
        rows.append((f"test {metric}", *(format_score(score, metric) for score in scores), ""))
    return [row for row in rows if row[0] != "energy" or set(row[1:-1]) != {UNAVAILABLE}]


def format_score(score: float | None, metric: str) -> str:
    """A score as people read it: accuracies in percent, other metrics as numbers."""
    if score is None:
        return "–"
    if not math.isfinite(score):
        return "not a number" if math.isnan(score) else "infinite" if score > 0 else "-infinite"
    return f"{score:.2%}" if metric == "accuracy" else f"{score:.4g}"


def _share(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.1%}" if ratio < 2 else f"{ratio:.2f}×"


def asked_table(lines: Sequence[Line]) -> Any:
    """A rich table of what was asked and what was reached.

    Args:
        lines: what `budget.reached` returned.

    Raises:
        ImportError: rich is missing.
    """
    table = _table("Asked and reached", ["full size", "asked", "reached", "of asked"])
    for line, row in zip(lines, asked_rows(lines), strict=True):
        style = "green" if line.holds else "bold red"
        table.add_row(row[0], row[1], row[2], f"[{style}]{row[3]}[/]", f"[{style}]{row[4]}[/]")
    return table


def comparison_table(
    networks: Sequence[Network], metric: str = "accuracy", title: str = "What it costs"
) -> Any:
    """A rich table of networks side by side, with the last one's share of the first.

    Raises:
        ImportError: rich is missing.
    """
    share = f"{networks[-1].name} / {networks[0].name}"
    table = _table(title, [*(network.name for network in networks), share])
    for row in comparison_rows(networks, metric):
        table.add_row(*row)
    return table


def frontier_table(points: Sequence[Point], metric: str = "accuracy") -> Any:
    """A rich table of the networks that one run gave, largest first.

    Raises:
        ImportError: rich is missing.
    """
    return plain_table(
        "The frontier", ("asked", "reached", f"test {metric}"), frontier_rows(points, metric)
    )


def checks_table(checks: Sequence[Check]) -> Any:
    """A rich table of what was verified.

    Raises:
        ImportError: rich is missing.
    """
    table = _table("Checked", [])
    table.show_header = False
    table.add_column()
    for check in checks:
        style, sign = ("green", "✓") if check.holds else ("bold red", "✗")
        table.add_row(check.what, f"[{style}]{sign} {check.found}[/]")
    return table


def layer_table(table: LatencyTable) -> Any:
    """A rich table: one row an operator, slowest first.

    Raises:
        ImportError: rich is missing.
    """
    total = sum(sum(layer.seconds) for layer in table.layers)
    rows = [
        (
            layer.name,
            layer.operator,
            " x ".join(map(str, layer.widths)) or "-",
            format_seconds(sum(layer.seconds)),
            f"{sum(layer.seconds) / total:.1%}",
            f"{1 - layer.seconds[0] / (sum(layer.seconds) or 1.0):.0%}",
        )
        for layer in sorted(table.layers, key=lambda layer: -sum(layer.seconds))
    ]
    title = f"{table.model} in {table.runtime}: {format_seconds(table.full)}"
    return plain_table(
        title, ["layer", "operator", "widths", "time", "share", "falls with widths"], rows
    )


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A rich table: the first column is words, the others are figures.

    Raises:
        ImportError: rich is missing.
    """
    table = _table(title, columns[1:], columns[0])
    for row in rows:
        table.add_row(*row)
    return table


def _table(title: str, figures: Sequence[str], first: str = "") -> Any:
    rich = require("rich.table", extra="cli")
    boxes = require("rich.box", extra="cli")
    table = rich.Table(title=title, title_justify="left", title_style="bold", box=boxes.SIMPLE_HEAD)
    table.add_column(first)
    for name in figures:
        table.add_column(name, justify="right")
    return table
