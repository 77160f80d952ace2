"""The report: one HTML file that opens without a network.

A `Run` flows in; a page flows out, with its drawings inline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from secateur.measurement import format_seconds
from secateur.report.charts import Series, bars, curves
from secateur.report.markup import definitions, figure, good, page, section, table, words_table
from secateur.report.run import Run
from secateur.report.tables import NAMES, asked_rows, comparison_rows, format_score, frontier_rows
from secateur.report.timeline import timeline_svg
from secateur.report.width_bars import widths_svg
from secateur.utils.files import write_atomically


def html(run: Run, path: str | os.PathLike[str]) -> Path:
    """Write the report of a run as one HTML file.

    Args:
        run: its facts.
        path: such as "report.html"; an older file is replaced in one step.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> from secateur.measurement import Footprint
        >>> from secateur.report import Network, Run, Width
        >>> dense = Network("dense", Footprint(params=9, flops=90, bytes=36))
        >>> small = Network("small", Footprint(params=3, flops=30, bytes=12))
        >>> run = Run("A tiny network", (), (Width("conv1", 2, 8),), (dense, small))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     "2 of 8" in html(run, f"{folder}/report.html").read_text()
        True
    """
    parts = [
        _facts(run),
        _asked(run),
        _frontier(run),
        _warnings(run),
        _widths(run),
        _training(run),
        _comparison(run),
        _checks(run),
        definitions("How it was made", run.settings, "Every option of the run."),
        definitions(
            "Measured on", run.machine, "Latencies hold for this machine and these versions."
        ),
        definitions("Files", run.files, "Beside this report."),
    ]
    return write_atomically(path, page(run.title, _lead(run), "".join(parts)))


def _lead(run: Run) -> str:
    if not run.asked:
        return "What the small network costs, beside the full-size one."
    words = [
        f"{line.reached / line.full:.2%} of the {NAMES.get(line.measure, line.measure)}"
        f" ({line.asked / line.full:.2%} asked)"
        for line in run.asked
    ]
    return f"Trained once, ended at {' and '.join(words)}."


def _facts(run: Run) -> str:
    """The figures that most readers came for, large."""
    first, last = run.networks[0], run.networks[-1]
    facts: list[tuple[str, str]] = []
    for line in run.asked:
        name = NAMES.get(line.measure, line.measure)
        facts.append((f"{line.reached / line.full:.1%}", f"of the {name} kept"))
    speedups = [("torch", first.footprint.latency, last.footprint.latency)]
    speedups.append(("ONNX Runtime", first.onnx_latency, last.onnx_latency))
    for runtime, before, after in speedups:
        if before and after:
            facts.append((f"{before / after:.2f}×", f"as fast in {runtime}"))
    if last.score is not None:
        words = f"test {run.metric}"
        if first.score is not None:
            words += f", {format_score(first.score, run.metric)} {first.name}"
        facts.append((format_score(last.score, run.metric), words))
    cells = [
        f'<div class="fact"><b>{escape(b)}</b><span>{escape(s)}</span></div>' for b, s in facts
    ]
    return f'<div class="facts">{"".join(cells)}</div>' if cells else ""


def _asked(run: Run) -> str:
    if not run.asked:
        return ""
    rows = [
        (*row[:4], good(row[4], line.holds))
        for line, row in zip(run.asked, asked_rows(run.asked), strict=True)
    ]
    head = ("measure", "full size", "asked", "reached", "of asked")
    lead = "Counted on the small network itself, independently of the training."
    return section("Asked and reached", lead, table(head, rows))


def _frontier(run: Run) -> str:
    """The networks that one run gave: accuracy against cost."""
    if not run.frontier:
        return ""
    measure = run.frontier[0].lines[0].measure
    name = NAMES.get(measure, measure)
    places = [(100 * p.lines[0].reached / p.lines[0].full, p.score) for p in run.frontier]
    words = ", ".join(f"{x:.1f}% {format_score(y, run.metric)}" for x, y in places)
    picture = curves(
        [Series("", places)],
        f"Test {run.metric} against {name} kept: {words}",
        x_name=f"% of the {name}",
        show=lambda score: format_score(score, run.metric),
        from_zero=False,
        dots=places,
    )
    lead = "One run gave all of these; each network is a part of the one before."
    head = ("asked", "reached", f"test {run.metric}")
    return section(
        "The frontier",
        lead,
        table(head, frontier_rows(run.frontier, run.metric))
        + figure(f"Test {run.metric} against cost", picture),
    )


def _widths(run: Run) -> str:
    if not run.widths:
        return ""
    kinds = " and ".join(dict.fromkeys(width.kind for width in run.widths))
    lead = f"Each bar is a layer at full size, to one scale; filled are the {kinds} kept."
    return section(
        "Layer by layer", lead, f'<figure class="scroll wide">{widths_svg(run.widths)}</figure>'
    )


def _warnings(run: Run) -> str:
    """What the run said while it trained, in words that its loss gave reason for."""
    rows = [
        (f"step {record['step']:,}", record["warning"].partition(": ")[2] or record["warning"])
        for record in run.history
        if "warning" in record
    ]
    lead = "Said while training, at the dot on the loss; what to change if the result is poor."
    return section("Early warnings", lead, words_table(rows)) if rows else ""


def _comparison(run: Run) -> str:
    first, last = run.networks[0], run.networks[-1]
    head = ("", *(network.name for network in run.networks), f"{last.name} / {first.name}")
    body = table(head, comparison_rows(run.networks, run.metric))
    figures = ""
    for runtime, latencies in {
        "torch": [network.footprint.latency for network in run.networks],
        "ONNX Runtime": [network.onnx_latency for network in run.networks],
    }.items():
        named = zip([network.name for network in run.networks], latencies, strict=True)
        rows = [(name, seconds) for name, seconds in named if seconds is not None]
        if len(rows) > 1:
            words = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in rows)
            picture = bars(rows, f"Latency in {runtime}: {words}", show=format_seconds)
            figures += figure(f"Latency in {runtime}", picture)
    lead = "Medians of repeated runs on the example inputs."
    return section("What it costs", lead, body + (f'<br><div class="pair">{figures}</div>'))


def _training(run: Run) -> str:
    steps = [record for record in run.history if "step" in record and "loss" in record]
    if len(steps) < 2:
        return ""
    frozen = next((r["step"] for r in steps if r.get("hardness", 0.0) >= 1), None)
    at = None if frozen is None else ("groups chosen", float(frozen))
    tests = [record for record in run.history if "held_out_loss" in record]
    losses = [Series("training", [(r["step"], r["loss"]) for r in steps])]
    if tests:
        losses.append(Series("held out", [(r["step"], r["held_out_loss"]) for r in tests]))
    warned = {record["step"] for record in run.history if "warning" in record}
    dots = [(r["step"], r["loss"]) for r in steps if r["step"] in warned]
    figures = figure("Loss", curves(losses, "Loss over the steps of training", at=at, dots=dots))
    scores = [(r["step"], r[run.metric]) for r in tests if r.get(run.metric) is not None]
    if len(scores) > 1:
        percent = run.metric == "accuracy"
        figures += figure(
            f"Held-out {run.metric}",
            curves(
                [Series(f"held-out {run.metric}", scores)],
                f"Held-out {run.metric} after each epoch",
                show="{:.0%}".format if percent else "{:g}".format,
                from_zero=not percent,
                at=at,
            ),
        )
    if "spent" in steps[0]:
        figures += _budget_curves(run, steps, at)
    lead = "The budget presses harder until the groups are chosen; the survivors then train on."
    body = f'<div class="pair">{figures}</div>'
    if strips := timeline_svg(run.history, run.widths, at=at):
        words = "Width of every layer over the steps of training"
        body += f'<br><div class="scroll wide">{figure(words, strips)}</div>'
    return section("Training", lead, body)


def _budget_curves(run: Run, steps: list[Mapping[str, Any]], at: tuple[str, float] | None) -> str:
    measures = [str(name) for name in steps[0]["spent"]]
    if len(measures) > 1:  # the share of groups is in the other picture
        measures = [name for name in measures if name != "groups"]
    shares = [
        Series(NAMES.get(name, name), [(r["step"], r["spent"][name]) for r in steps])
        for name in measures
    ]
    level = None
    if len(run.asked) == 1:
        share = run.asked[0].asked / run.asked[0].full
        level = (f"asked {share:.1%}", share)
    cost = curves(
        shares, "Cost over the steps of training", show="{:.0%}".format, level=level, at=at
    )
    hard = Series("hardness", [(r["step"], r["hardness"]) for r in steps])
    total = sum(width.full for width in run.widths) or 1
    kept = Series("share of groups kept", [(r["step"], r["kept"] / total) for r in steps])
    title = "Groups kept and hardness over the steps of training"
    pressure = curves([kept, hard], title, at=at)
    caption = "Cost if it were cut now, of the full network"
    return figure(caption, cost) + figure("Pressure", pressure)


def _checks(run: Run) -> str:
    if not run.checks:
        return ""
    rows = [(check.what, good(check.found, check.holds)) for check in run.checks]
    lead = "Verified on the networks and files of this run."
    return section("Checked", lead, words_table(rows))
