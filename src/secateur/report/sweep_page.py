"""The page of a sweep: one HTML file that opens without a network.

A `Sweep` flows in; a page flows out, with its figure inline.
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean

from secateur.measurement import format_measure
from secateur.report.charts import Series, curves
from secateur.report.page import write_page
from secateur.report.run import Run
from secateur.report.sweep import Sweep, SweepTrial, head, holds, rows
from secateur.report.tables import format_score, measure_name


def sweep_html(sweep: Sweep, path: str | os.PathLike[str]) -> Path:
    """Write the page of a sweep as one HTML file.

    Args:
        sweep: its facts.
        path: such as "sweep/report.html", in the sweep's folder, from where it links to the runs'
            reports; an older file is replaced in one step.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> from secateur.report.sweep import SweepTrial
        >>> sweep = Sweep("A net", (SweepTrial("flops=25%", 0, "runs/0", failure="out of memory"),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     "out of memory" in sweep_html(sweep, f"{folder}/report.html").read_text()
        True
    """
    scored = any(trial.score is not None for trial in sweep.trials)
    return write_page(
        path,
        "sweep.html",
        sweep=sweep,
        lead=_lead(sweep),
        picture=cost_svg(sweep) if scored else "",
        cost=measure_name(_measure(sweep)),
        head=head(sweep),
        rows=rows(sweep),
        holds=holds(sweep),
        format_score=format_score,
        reached=lambda x: f"{format_measure(x.measure, x.reached)} {measure_name(x.measure)}",
        failures=[
            (f"{trial.budget}, seed {trial.seed}", (trial.failure or "not finished", False))
            for trial in sweep.failed
        ],
        machines=_machines(sweep.runs),
    )


def cost_svg(sweep: Sweep) -> str:
    """Draw the score against the cost: a dot a run, a line through each budget's means.

    Args:
        sweep: with one run or more that ended and has a score.

    Returns:
        One <svg> element. The cost is the measure that all budgets share, or else FLOPs; where
        there are none, parameters.

    Raises:
        ValueError: no run to draw.
    """
    measure = _measure(sweep)
    dots = [_dots(trials, measure) for trials in sweep.budgets().values()]
    means = [(mean(x for x, _ in found), mean(y for _, y in found)) for found in dots if found]
    percent = sweep.metric == "accuracy"
    name = measure_name(measure)
    return curves(
        [Series(f"mean {sweep.metric}", sorted(means))] if means else [],
        f"{sweep.metric} against {name}: a dot a run, a line through the means over seeds",
        x_name=f"{name}, % of the full network",
        show="{:.4g}%".format if percent else "{:g}".format,
        from_zero=False,
        dots=[dot for found in dots for dot in found],
        size=(790, 360),
    )


def _measure(sweep: Sweep) -> str:
    """The measure on the cost's axis."""
    asked = [[line.measure for line in run.asked] for run in sweep.runs]
    for measure in asked[0] if asked else ():
        if all(measure in other for other in asked):
            return measure
    known = all(trial.share("flops") is not None for trial in sweep.trials if trial.run)
    return "flops" if known else "params"


def _dots(trials: tuple[SweepTrial, ...], measure: str) -> list[tuple[float, float]]:
    """Cost in percent and score of every run that has both."""
    found = []
    for trial in trials:
        share, score = trial.share(measure), trial.score
        if share is not None and score is not None and trial.run is not None:
            found.append((100 * share, 100 * score if trial.run.metric == "accuracy" else score))
    return found


def _lead(sweep: Sweep) -> str:
    budgets, seeds = len(sweep.budgets()), len({trial.seed for trial in sweep.trials})
    words = f"{_many(budgets, 'budget')}, {_many(seeds, 'seed')}: {_many(len(sweep.trials), 'run')}"
    return f"{words}, {len(sweep.failed)} of them failed." if sweep.failed else f"{words}."


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _machines(runs: tuple[Run, ...]) -> dict[str, str]:
    """Fact -> its values on all machines, each once."""
    names = dict.fromkeys(name for run in runs for name in run.machine)
    return {
        name: "; ".join(dict.fromkeys(run.machine[name] for run in runs if name in run.machine))
        for name in names
    }
