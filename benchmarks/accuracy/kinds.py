"""What kinds of groups cost and give: the paper's own kind of table, on two small networks.

    PYTHONPATH=benchmarks python -m accuracy.kinds            # about half an hour on one core
    PYTHONPATH=benchmarks python -m accuracy.kinds --seeds 0

Filters, channels, filter shapes, depth and single weights, each trained once to a share of what it
groups, with our defaults. One JSON line a run in benchmarks/results/accuracy-kinds.jsonl: the score
on the test rows after the last step, how many numbers are left, and the time of one forward, small
over dense, measured in turns on one thread.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

import runs
import secateur as sc
from accuracy import images
from accuracy.ours import firm
from accuracy.run import Run
from accuracy.table import score_cell
from accuracy.task import TASKS
from secateur.measurement import time_together
from secateur.runtimes import prepare

RESULT = runs.RESULTS / "accuracy-kinds.jsonl"
KEYS = ("task", "kind", "budget", "seed")
RUNTIMES = ("torch", "onnxruntime")
SHARES = (0.25, 0.10)


@dataclass(frozen=True)
class Kind:
    """One kind of groups on one task.

    Attributes:
        group: (model, example) -> the groups.
        budgets: name -> amounts: of the parameters where groups are cut out, else of the groups.
    """

    group: Callable[[nn.Module, Any], sc.Groups]
    budgets: Mapping[str, Mapping[str, Any]]


def shares_of(measure: str) -> dict[str, dict[str, Any]]:
    """The same shares of either measure."""
    return {f"{share:.0%} of {measure}": {measure: share} for share in SHARES}


ANYWHERE = {
    "channels": Kind(sc.channels, shares_of("params")),
    "filter shapes": Kind(sc.shapes, shares_of("groups")),
    "single weights": Kind(lambda model, example: sc.weights(model), shares_of("groups")),
}
DEPTH = {"1 of 3 branches": {"groups": 1}, "2 of 3 branches": {"groups": 2}}
KINDS: dict[str, dict[str, Kind]] = {
    "lenet-mnist": {"filters": Kind(images.filters_and_neurons, shares_of("params"))} | ANYWHERE,
    "resnet8-cifar": {"filters": Kind(sc.filters, shares_of("params"))}
    | ANYWHERE
    | {"depth": Kind(sc.depth, DEPTH)},
}


def train(task: str, kind: str, budget: str, seed: int) -> dict[str, Any]:
    """One network with groups of a kind, and the facts of it."""
    about, here = TASKS[task](), KINDS[task][kind]
    name = f"{task}, {kind}"
    TASKS[name] = lambda: replace(about, name=name, group=here.group, budgets=here.budgets)
    run = Run(name, budget, seed)
    dense = sc.measure(run.model, run.example, latency=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zeros that stay in place are what some kinds are
        small = firm(run)
    (line,) = run.budget.reached(small, run.example, groups=run.groups).lines
    counted = sc.measure(small, run.example, latency=False)
    return run.scores(small) | {
        "measure": line.measure,
        "asked": line.asked,
        "reached": line.reached,
        "compression": dense.params / nonzero(small),
        "params": counted.params / dense.params,
        "flops": counted.flops / dense.flops,
        "latency": {runtime: ratio(run, small, runtime) for runtime in RUNTIMES},
    }


def nonzero(network: nn.Module) -> int:
    """How many numbers are left to store."""
    return sum(int(parameter.count_nonzero()) for parameter in network.parameters())


def ratio(run: Run, small: nn.Module, runtime: str) -> float:
    """The time of one image, small over dense."""
    dense = run.task.network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a busy machine: medians, in turns
        calls = [prepare(model, run.example, runtime, threads=1) for model in (small, dense)]
        times = [time.median for time in time_together(calls, seconds=0.02, patience=2)]
    return times[0] / times[1]


def table(lines: list[dict[str, Any]]) -> str:
    """One row a task, kind and budget."""
    rows = [
        "| | budget | accuracy % | compression | FLOPs left | time, torch | time, ONNX Runtime |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    found = runs.grouped(lines, *KEYS[:-1])
    order = [(t, k, b) for t, kinds in KINDS.items() for k in kinds for b in kinds[k].budgets]
    for key in filter(found.__contains__, order):
        mean = partial(_mean, found[key])
        task, kind, budget = key
        rows.append(
            f"| {task}, {kind} | {budget} | {score_cell(found[key])} "
            f"| {mean(lambda line: line['compression']):.1f}x "
            f"| {mean(lambda line: line['flops']):.0%} "
            f"| {mean(lambda line: line['latency']['torch']):.2f} "
            f"| {mean(lambda line: line['latency']['onnxruntime']):.2f} |"
        )
    return "\n".join(rows)


def _mean(lines: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return sum(map(value, lines)) / len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="accuracy.kinds", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = (
        (task, kind, budget, seed)
        for seed in options.seeds
        for task in options.tasks
        for kind, about in KINDS[task].items()
        for budget in about.budgets
    )
    for line in runs.missing(RESULT, KEYS, wanted, train):
        print(
            f"{line['task']}  {line['kind']:14} {line['budget']:16} seed {line['seed']}  "
            f"{line['score']:6.2f}  {line['compression']:5.1f}x  {line['reached']}/{line['asked']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
