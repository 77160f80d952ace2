"""How lambda leads to k: what a penalty alone leaves, the paper's own kind of table.

    PYTHONPATH=benchmarks python -m accuracy.penalties            # hours on one core
    PYTHONPATH=benchmarks python -m accuracy.penalties --tasks lenet-mnist --seeds 0

Plain gradient steps with a proximal or half-space step after each, to the end of the run: lambda
alone decides how many groups are zero. One JSON line a run in benchmarks/results/
accuracy-penalties.jsonl: how many groups are left, and the score on the test rows after the last
step, with no training after.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch.optim import Optimizer

import runs
import secateur as sc
from accuracy import known  # noqa: F401
from accuracy.__main__ import RESULT as METHODS_RESULT
from accuracy.convex import EnvelopeHSPG, levels, plain_rate, svrg
from accuracy.run import Run, Step
from accuracy.table import OURS, score_cell
from accuracy.task import TASKS
from baselines.group_lasso import GroupLasso
from baselines.hspg import HSPG
from secateur.optim.penalties import Penalty

RESULT = runs.RESULTS / "accuracy-penalties.jsonl"
KEYS = ("task", "penalty", "lam", "seed")
SHOWN = ("lenet-mnist", "lenet-fashion", "resnet8-cifar")
SEEDS = (0, 1, 2)
RATE = 5  # times the task's learning rate, which is for momentum: here there is none

Way = Callable[[Run, float, float], tuple[Optimizer, Step | None]]  # lambda, learning rate


def plain(
    run: Run, lam: float, rate: float, budget: sc.Budget, penalty: str | Penalty
) -> sc.Proximal:
    """Gradient steps without momentum or decay, each followed by the penalty's proximal step."""
    sgd = torch.optim.SGD(run.model.parameters(), rate * plain_rate(run), foreach=True)
    return sc.Proximal(sgd, run.groups, budget, penalty=penalty, lam=lam, importance=1.0)


def lasso(run: Run, lam: float, rate: float) -> tuple[Optimizer, None]:
    """The group lasso."""
    return plain(run, lam, rate, run.budget, GroupLasso()), None


def half_space(run: Run, lam: float, rate: float) -> tuple[Optimizer, None]:
    """The group lasso by half-space steps from the middle of the run on."""
    options = {"lr": rate * plain_rate(run), "lam": lam, "switch": run.steps // 2}
    return HSPG(run.model.parameters(), run.groups, **options), None


def envelope(run: Run, lam: float, rate: float) -> tuple[Optimizer, None]:
    """The paper's, one level k_l a layer; lambda in proportion to k / m."""
    budget = sc.Budget(**run.amounts, per_layer=True)
    return plain(run, lam * levels(run)[1], rate, budget, "envelope"), None


def envelope_half_space(run: Run, lam: float, rate: float) -> tuple[Optimizer, None]:
    """The same by half-space steps from the middle of the run on."""
    options = {"lr": rate * plain_rate(run), "lam": lam, "switch": run.steps // 2}
    return EnvelopeHSPG(run, **options), None


PENALTIES: dict[str, Way] = {
    "Prox-SG": lasso,
    "Prox-SVRG": svrg,
    "HSPG": half_space,
    "WGSEF": envelope,
    "WGSEF, half-space": envelope_half_space,
}
OF_LASSO, OF_ENVELOPE = (0.001, 0.003, 0.01, 0.03, 0.1), (0.03, 0.1, 0.3, 1.0, 3.0)
LAMBDAS = {name: OF_ENVELOPE if "WGSEF" in name else OF_LASSO for name in PENALTIES}


def train(task: str, penalty: str, lam: float, seed: int) -> dict[str, Any]:
    """One network, how many of its groups are left, and how many the envelope was told of."""
    run = Run(task, TASKS[task]().study, seed)
    optimizer, step = PENALTIES[penalty](run, lam, RATE)
    ended = {}
    try:
        run.train(optimizer, step=step)
    except FloatingPointError:
        ended = {"diverged": True}
    alive = run.groups.alive()
    counts = {"k": float(levels(run)[0].levels.sum()), "groups": int(alive.sum()), "m": len(alive)}
    return run.scores(run.model) | counts | ended


def table(lines: list[runs.Line]) -> str:
    """One table a task: a row a lambda, a column a penalty; the groups left and the score."""
    compared = runs.read(METHODS_RESULT)
    tables = []
    for task, mine in runs.grouped(lines, "task").items():
        about = TASKS[task]()
        ours = runs.those(compared, task=task, method=OURS, budget=about.study, knob="{}")
        dense = runs.those(compared, task=task, method="dense")
        found = runs.grouped(mine, "lam", "penalty")
        names = [name for name in PENALTIES if runs.those(mine, penalty=name)]
        rows = [
            f"**{task}**: groups left of {mine[0]['m']}, and {about.measure}. WGSEF is told "
            f"k = {mine[0]['k']:.0f}; {OURS} at {about.study}: {score_cell(ours)}; "
            f"dense: {score_cell(dense)}.",
            "",
            f"| lambda | {' | '.join(names)} |",
            "|---:|" + "---:|" * len(names),
        ]
        for lam in sorted({line["lam"] for line in mine}):
            cells = (_left(found.get((lam, name), [])) for name in names)
            rows.append(f"| {lam:g} | {' | '.join(cells)} |")
        tables.append("\n".join(rows))
    return "\n\n".join(tables)


def _left(lines: list[runs.Line]) -> str:
    """Groups left, then the score: means and deviations over seeds."""
    if not lines:
        return ""
    left = sum(line["groups"] for line in lines) / len(lines)
    return f"{left:.0f}: {score_cell(lines)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="accuracy.penalties",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", choices=SHOWN, default=SHOWN)
    parser.add_argument("--penalties", nargs="+", choices=PENALTIES, default=list(PENALTIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = (
        (task, penalty, lam, seed)
        for seed, task, penalty in product(options.seeds, options.tasks, options.penalties)
        for lam in LAMBDAS[penalty]
    )
    for line in runs.missing(RESULT, KEYS, wanted, train):
        print(
            f"{line['task']}  {line['penalty']:18} {line['lam']:g}  seed {line['seed']}  "
            f"{line['groups']} of {line['m']} groups  {line['score']:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
