"""The page of a sweep: one HTML file that opens without a network.

A `Sweep` flows in; a page flows out, with its figure inline.
"""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from statistics import mean
from urllib.parse import quote

from secateur.measurement import format_measure
from secateur.report.charts import Series, curves
from secateur.report.markup import Markup, definitions, good, page, section, table, words_table
from secateur.report.run import Run
from secateur.report.sweep import Sweep, SweepTrial, head, holds, rows
from secateur.report.tables import NAMES, format_score
from secateur.utils.files import write_atomically

REPORT = "report.html"  # of each run, in its folder


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
    parts = [
        _figure(sweep),
        _means(sweep),
        _every_run(sweep),
        _failures(sweep),
        definitions("How it was made", sweep.settings, "What all runs share."),
        definitions("Measured on", _machines(sweep.runs), "Every machine that took part."),
    ]
    return write_atomically(path, page(sweep.title, _lead(sweep), "".join(parts)))


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
    dots = {budget: _dots(trials, measure) for budget, trials in sweep.budgets().items()}
    means = [
        (mean(x for x, _ in found), mean(y for _, y in found)) for found in dots.values() if found
    ]
    percent = sweep.metric == "accuracy"
    name = _name(measure)
    return curves(
        [Series(f"mean {sweep.metric}", sorted(means))] if means else [],
        f"{sweep.metric} against {name}: a dot a run, a line through the means over seeds",
        x_name=f"{name}, % of the full network",
        show="{:.4g}%".format if percent else "{:g}".format,
        from_zero=False,
        dots=[dot for found in dots.values() for dot in found],
        size=(790, 360),
    )


def _measure(sweep: Sweep) -> str:
    """The measure on the cost's axis."""
    asked = [{line.measure: None for line in run.asked} for run in sweep.runs]
    shared = [
        measure for measure in (asked[0] if asked else ()) if all(measure in a for a in asked)
    ]
    if shared:
        return shared[0]
    known = all(trial.share("flops") is not None for trial in sweep.trials if trial.run)
    return "flops" if known else "params"


def _name(measure: str) -> str:
    return NAMES.get(measure, measure)


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


def _figure(sweep: Sweep) -> str:
    if all(trial.score is None for trial in sweep.trials):
        return ""
    lead = "A dot is a run, the line goes through the means over seeds."
    title = f"{sweep.metric.capitalize()} against {_name(_measure(sweep))}"
    return section(title, lead, f'<figure class="scroll wide">{cost_svg(sweep)}</figure>')


def _means(sweep: Sweep) -> str:
    if not sweep.runs:
        return ""
    words = "every network is within its budget" if holds(sweep) else "not every network is"
    lead = "Mean and standard deviation over seeds, counted on the small networks themselves."
    body = table(head(sweep), rows(sweep)) + f"<p>{good(words, holds(sweep))}</p>"
    return section("Asked and reached", lead, body)


def _every_run(sweep: Sweep) -> str:
    found = []
    for trial in sweep.trials:
        if trial.run is not None:
            reached = ", ".join(
                good(
                    f"{format_measure(line.measure, line.reached)} {_name(line.measure)}",
                    line.holds,
                )
                for line in trial.run.asked
            )
            score = "–" if trial.score is None else format_score(trial.score, sweep.metric)
            found.append((_link(trial), str(trial.seed), score, Markup(reached)))
    if not found:
        return ""
    lead = "Each with a report of its own."
    return section("Every run", lead, table(("budget", "seed", sweep.metric, "reached"), found))


def _link(trial: SweepTrial) -> Markup:
    return Markup(f'<a href="{quote(trial.folder)}/{REPORT}">{escape(trial.budget)}</a>')


def _failures(sweep: Sweep) -> str:
    if not sweep.failed:
        return ""
    found = [
        (f"{trial.budget}, seed {trial.seed}", good(trial.failure or "not finished", False))
        for trial in sweep.failed
    ]
    lead = "The same command runs them again, from where they were."
    return section("Failed", lead, words_table(found))


def _machines(runs: tuple[Run, ...]) -> dict[str, str]:
    """Fact -> its values on all machines, each once."""
    names = dict.fromkeys(name for run in runs for name in run.machine)
    return {
        name: "; ".join(dict.fromkeys(run.machine[name] for run in runs if name in run.machine))
        for name in names
    }
