"""The facts of a sweep: the same training for several budgets and seeds.

In: what each run came to. Out: `Sweep`; rows of means and deviations, which the terminal and the
page share; one line of JSON a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import isfinite
from statistics import mean, stdev
from typing import Any

from secateur.measurement import format_measure
from secateur.report.run import Run
from secateur.report.tables import format_score, measure_name, plain_table
from secateur.utils.json import to_json

HEAD = ("budget", "runs", "{metric}", "measure", "asked", "reached")


@dataclass(frozen=True)
class SweepTrial:
    """One run of a sweep.

    Attributes:
        budget: as it was written, such as "flops=25%".
        seed: of the run.
        folder: of the run, seen from the sweep's.
        run: its facts; None where it failed or has not ended.
        failure: why it failed, or "".
    """

    budget: str
    seed: int
    folder: str
    run: Run | None = None
    failure: str = ""

    @property
    def score(self) -> float | None:
        """The small network's metric on the test data."""
        return None if self.run is None else self.run.networks[-1].score

    def __str__(self) -> str:
        name = f"{self.budget}, seed {self.seed}"
        if self.run is None:
            return f"{name}: failed: {self.failure}"
        score = "none" if self.score is None else format_score(self.score, self.run.metric)
        return f"{name}: {self.run.metric} {score}"

    def share(self, measure: str) -> float | None:
        """What the small network costs, of the full one; None where that is not known."""
        if self.run is None:
            return None
        for line in self.run.asked:
            if line.measure == measure:
                return line.reached / line.full
        full, small = self.run.networks[0].footprint, self.run.networks[-1].footprint
        return small.ratio(full).get(measure)

    def record(self) -> dict[str, Any]:
        """The trial as one line of JSON holds it."""
        found: dict[str, Any] = {"budget": self.budget, "seed": self.seed, "folder": self.folder}
        if self.run is None:
            return found | {"failed": self.failure or "not finished"}
        return found | {
            "metric": self.run.metric,
            "score": self.score,
            "asked": [asdict(line) for line in self.run.asked],
            "footprint": asdict(self.run.networks[-1].footprint),
            "onnx_latency": self.run.networks[-1].onnx_latency,
        }


@dataclass(frozen=True)
class Sweep:
    """What there is to tell about a sweep.

    Attributes:
        title: the page's heading.
        trials: one a run, budget by budget.
        settings: what all runs share: option -> value, as text.

    Example:
        >>> sweep = Sweep("A net", (SweepTrial("flops=25%", 0, "runs/0", failure="out of memory"),))
        >>> print(sweep.lines().strip())
        {"budget": "flops=25%", "seed": 0, "folder": "runs/0", "failed": "out of memory"}
    """

    title: str
    trials: tuple[SweepTrial, ...]
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The facts of every run that ended well."""
        return tuple(trial.run for trial in self.trials if trial.run is not None)

    @property
    def failed(self) -> tuple[SweepTrial, ...]:
        """The runs that did not."""
        return tuple(trial for trial in self.trials if trial.run is None)

    @property
    def metric(self) -> str:
        """What `score` is, such as "accuracy"."""
        return self.runs[0].metric if self.runs else "score"

    def budgets(self) -> dict[str, tuple[SweepTrial, ...]]:
        """Budget -> its trials, in the order given."""
        found: dict[str, tuple[SweepTrial, ...]] = {}
        for trial in self.trials:
            found[trial.budget] = (*found.get(trial.budget, ()), trial)
        return found

    def lines(self) -> str:
        """JSON lines, one a trial."""
        return "".join(to_json(trial.record()) + "\n" for trial in self.trials)


def head(sweep: Sweep) -> tuple[str, ...]:
    """The table's columns."""
    return tuple(column.format(metric=sweep.metric) for column in HEAD)


def rows(sweep: Sweep) -> list[tuple[str, ...]]:
    """Means and standard deviations over seeds: one row a budget and measure."""
    found: list[tuple[str, ...]] = []
    for budget, trials in sweep.budgets().items():
        runs = [trial.run for trial in trials if trial.run is not None]
        counted = str(len(runs)) if len(runs) == len(trials) else f"{len(runs)} of {len(trials)}"
        if not runs:
            found.append((budget, counted, "–", "", "–", "–"))
            continue
        scores = [trial.score for trial in trials if trial.score is not None]
        first = (budget, counted, _spread(scores, lambda score: format_score(score, sweep.metric)))
        for i, line in enumerate(runs[0].asked):
            alike = [run.asked[i] for run in runs]
            full = mean(line.full for line in alike)
            show = partial(format_measure, line.measure)
            asked = _spread([line.asked for line in alike], show)
            reached = _spread([line.reached for line in alike], show)
            reached += f" ({mean(line.reached for line in alike) / full:.2%})"
            name = measure_name(line.measure)
            found.append((*(first if i == 0 else ("", "", "")), name, asked, reached))
    return found


def holds(sweep: Sweep) -> bool:
    """Whether every run that ended reached what it was asked for."""
    return all(line.holds for run in sweep.runs for line in run.asked)


def sweep_table(sweep: Sweep) -> Any:
    """A rich table of means and standard deviations over seeds.

    Raises:
        ImportError: rich is missing.
    """
    return plain_table("Mean and standard deviation over seeds", head(sweep), rows(sweep))


def _spread(values: Sequence[float], show: Any) -> str:
    """The mean, and the sample's standard deviation where there is one."""
    if not values:
        return "–"
    spread = stdev(values) if len(values) > 1 and all(map(isfinite, values)) else 0.0
    return show(mean(values)) + (f" ± {show(spread)}" if spread else "")
