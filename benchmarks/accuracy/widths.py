"""How good can so few groups be? Every way to share 15 out over LeNet's layers, from scratch.

    PYTHONPATH=benchmarks python -m accuracy.widths           # about half an hour on one core
    PYTHONPATH=benchmarks python -m accuracy.widths --table

A search over widths that no training run can afford, as a measure for those that find their widths
by themselves: each network is small from the start and takes the same steps on the same batches.
One JSON line a run in benchmarks/results/accuracy-widths.jsonl; the best widths are chosen by their
mean on the validation rows.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from typing import Any

import numpy as np
import torch

import runs
from accuracy import known  # noqa: F401
from accuracy.__main__ import RESULT as METHODS_RESULT
from accuracy.run import Run
from accuracy.simple import start_small
from accuracy.table import OURS, score_cell

RESULT = runs.RESULTS / "accuracy-widths.jsonl"
KEYS = ("task", "widths", "seed")
TASKS = ("lenet-mnist", "lenet-fashion")
SEEDS = (0, 1, 2)
BUDGET, GROUPS = "15 groups", 15
LEAST = 2  # of a layer, which leaves 55 of the 91 ways


def ways() -> list[str]:
    """All widths of two convolutions and a hidden layer that come to the budget."""
    upto = range(LEAST, GROUPS)
    return [
        f"{first}-{second}-{third}"
        for first in upto
        for second in upto
        if (third := GROUPS - first - second) >= LEAST
    ]


def train(task: str, widths: str, seed: int) -> dict[str, Any]:
    """One network of these widths, from scratch."""
    run = Run(task, BUDGET, seed)
    kept = np.zeros(len(run.groups), bool)
    for layer, width in zip(run.groups.layers, widths.split("-"), strict=True):
        kept[layer.start : layer.start + int(width)] = True
    return run.facts(start_small(run, kept))


def table(lines: list[dict[str, Any]]) -> str:
    """One row a task: ours, then the best widths, the median ones, and how many are better."""
    rows = [
        f"| {BUDGET} | {OURS} | best of all widths | | median | better than {OURS} |",
        "|---|---:|---:|---|---:|---:|",
    ]
    compared = runs.read(METHODS_RESULT)
    for task, here in runs.grouped(lines, "task").items():
        found = runs.grouped(here, "widths")
        ours = runs.those(compared, task=task, method=OURS, budget=BUDGET, knob="{}")
        ranked = sorted(found, key=lambda widths: -_mean(found[widths], "validation"))
        best, middle = found[ranked[0]], found[ranked[len(ranked) // 2]]
        better = sum(
            _mean(mine, "validation") > _mean(ours, "validation") for mine in found.values()
        )
        rows.append(
            f"| {task} | {score_cell(ours)} | {score_cell(best)} | {ranked[0]} "
            f"| {score_cell(middle)} | {better} of {len(found)} |"
        )
    return "\n".join(rows)


def _mean(lines: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(line[name] for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="accuracy.widths", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(runs.read(RESULT)))
        return
    torch.set_num_threads(1)
    wanted = product(options.tasks, ways(), SEEDS)
    for line in runs.missing(RESULT, KEYS, wanted, train):
        words = f"{line['task']}  {line['widths']:7} seed {line['seed']}  {line['score']:6.2f}"
        print(words, flush=True)


if __name__ == "__main__":
    main()
