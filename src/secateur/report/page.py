"""The report: one HTML file that opens without a network.

A `Run` flows in; a page flows out, with its drawings inline. What it looks like is in `templates`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.measurement import format_seconds
from secateur.report.charts import Series, bars, curves
from secateur.report.run import Run
from secateur.report.tables import (
    asked_rows,
    comparison_rows,
    format_score,
    frontier_rows,
    measure_name,
)
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
    names = [network.name for network in run.networks]
    told = zip(run.asked, asked_rows(run.asked), strict=True)
    frozen = next((r["step"] for r in run.history if r.get("hardness", 0.0) >= 1), None)
    at = None if frozen is None else ("groups chosen", float(frozen))
    return write_page(
        path,
        "run.html",
        run=run,
        lead=_lead(run),
        facts=_facts(run),
        asked=[(*row[:-1], (row[-1], line.holds)) for line, row in told],
        frontier=frontier_rows(run.frontier, run.metric),
        frontier_svg=_frontier_svg(run),
        warnings=_warnings(run),
        bars_svg=widths_svg(run.widths) if run.widths else "",
        curves=_curves(run, at),
        strips=timeline_svg(run.history, run.widths, at=at),
        columns=("", *names, f"{names[-1]} / {names[0]}"),
        comparison=comparison_rows(run.networks, run.metric),
        latencies=_latencies(run),
        checks=[(check.what, (check.found, check.holds)) for check in run.checks],
    )


def write_page(path: str | os.PathLike[str], template: str, **facts: Any) -> Path:
    """Write a page of this room's templates, all words in it escaped, in one step."""
    import jinja2  # takes 0.1 s to import; torch needs it, so that it is there

    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("secateur.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return write_atomically(path, pages.get_template(template).render(facts).lstrip())


def _lead(run: Run) -> str:
    if not run.asked:
        return "What the small network costs, beside the full-size one."
    words = [
        f"{line.reached / line.full:.2%} of the {measure_name(line.measure)}"
        f" ({line.asked / line.full:.2%} asked)"
        for line in run.asked
    ]
    return f"Trained once, ended at {' and '.join(words)}."


def _facts(run: Run) -> list[tuple[str, str]]:
    """The figures that most readers came for, and what they are of."""
    first, last = run.networks[0], run.networks[-1]
    facts = [
        (f"{line.reached / line.full:.1%}", f"of the {measure_name(line.measure)} kept")
        for line in run.asked
    ]
    for runtime, after in last.latencies.items():
        if after and first.latencies.get(runtime):
            facts.append((f"{first.latencies[runtime] / after:.2f}×", f"as fast in {runtime}"))
    if last.score is not None:
        words = f"test {run.metric}"
        if first.score is not None:
            words += f", {format_score(first.score, run.metric)} {first.name}"
        facts.append((format_score(last.score, run.metric), words))
    return facts


def _frontier_svg(run: Run) -> str:
    """Accuracy against cost of the networks that one run gave."""
    if not run.frontier:
        return ""
    name = measure_name(run.frontier[0].lines[0].measure)
    places = [(100 * p.lines[0].reached / p.lines[0].full, p.score) for p in run.frontier]
    words = ", ".join(f"{x:.1f}% {format_score(y, run.metric)}" for x, y in places)
    return curves(
        [Series("", places)],
        f"Test {run.metric} against {name} kept: {words}",
        x_name=f"% of the {name}",
        show=lambda score: format_score(score, run.metric),
        from_zero=False,
        dots=places,
    )


def _warnings(run: Run) -> list[tuple[str, str]]:
    """What the run said while it trained, in words that its loss gave reason for."""
    return [
        (f"step {record['step']:,}", record["warning"].partition(": ")[2] or record["warning"])
        for record in run.history
        if "warning" in record
    ]


def _latencies(run: Run) -> list[tuple[str, str]]:
    """A caption and bars for each runtime in which two networks or more were timed."""
    figures = []
    for runtime in ("torch", "ONNX Runtime"):
        timed = [one for one in run.networks if runtime in one.latencies]
        if len(timed) > 1:
            rows = [(one.name, one.latencies[runtime]) for one in timed]
            words = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in rows)
            caption = f"Latency in {runtime}"
            figures.append((caption, bars(rows, f"{caption}: {words}", show=format_seconds)))
    return figures


def _curves(run: Run, at: tuple[str, float] | None) -> list[tuple[str, str]]:
    """Captions and curves over the steps of training; none where too few were recorded."""
    steps = [record for record in run.history if "step" in record and "loss" in record]
    if len(steps) < 2:
        return []
    tests = [record for record in run.history if "held_out_loss" in record]
    losses = [Series("training", [(r["step"], r["loss"]) for r in steps])]
    if tests:
        losses.append(Series("held out", [(r["step"], r["held_out_loss"]) for r in tests]))
    warned = {record["step"] for record in run.history if "warning" in record}
    dots = [(r["step"], r["loss"]) for r in steps if r["step"] in warned]
    figures = [("Loss", curves(losses, "Loss over the steps of training", at=at, dots=dots))]
    scores = [(r["step"], r[run.metric]) for r in tests if r.get(run.metric) is not None]
    if len(scores) > 1:
        percent, series = run.metric == "accuracy", Series(f"held-out {run.metric}", scores)
        show = "{:.0%}".format if percent else "{:g}".format
        title = f"Held-out {run.metric} after each epoch"
        picture = curves([series], title, show=show, from_zero=not percent, at=at)
        figures.append((f"Held-out {run.metric}", picture))
    return figures + (_budget_curves(run, steps, at) if "spent" in steps[0] else [])


def _budget_curves(
    run: Run, steps: Sequence[Mapping[str, Any]], at: tuple[str, float] | None
) -> list[tuple[str, str]]:
    measures = [str(name) for name in steps[0]["spent"]]
    if len(measures) > 1:  # the share of groups is in the other picture
        measures = [name for name in measures if name != "groups"]
    shares = [
        Series(measure_name(name), [(r["step"], r["spent"][name]) for r in steps])
        for name in measures
    ]
    share = run.asked[0].asked / run.asked[0].full if len(run.asked) == 1 else None
    level = None if share is None else (f"asked {share:.1%}", share)
    title, percent = "Cost over the steps of training", "{:.0%}".format
    cost = curves(shares, title, show=percent, level=level, at=at)
    hard = Series("hardness", [(r["step"], r["hardness"]) for r in steps])
    total = sum(width.full for width in run.widths) or 1
    kept = Series("share of groups kept", [(r["step"], r["kept"] / total) for r in steps])
    title = "Groups kept and hardness over the steps of training"
    return [
        ("Cost if it were cut now, of the full network", cost),
        ("Pressure", curves([kept, hard], title, at=at)),
    ]
