"""Run the benchmark, or as much of it as there is time for; finished runs are skipped.

    PYTHONPATH=benchmarks python -m accuracy                          # everything, hours
    PYTHONPATH=benchmarks python -m accuracy --tasks lenet-mnist --seeds 0 --minutes 30
    PYTHONPATH=benchmarks python -m accuracy --methods secateur dense --budgets "30 groups"
    PYTHONPATH=benchmarks python -m accuracy --study          # knobs and ideas, on validation rows
    PYTHONPATH=benchmarks python -m accuracy --tasks resnet8-cifar-longer resnet8-cifar-wide

One JSON line a run in benchmarks/results/accuracy.jsonl: the score on the test rows after the last
step, never the best one, and the score on the validation rows, by which knobs are chosen.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

import runs
from accuracy import known  # noqa: F401
from accuracy.method import METHODS, Knob, Method
from accuracy.run import Collapsed, Run, load
from accuracy.task import TASKS
from secateur.measurement import machine

RESULT = runs.RESULTS / "accuracy.jsonl"
SEEDS = (0, 1, 2)
KEYS = ("task", "method", "budget", "seed", "knob")

LONG = ("resnet8-cifar-longer", "resnet8-cifar-wide")  # an hour more and more: run when named
SHORT = [name for name in TASKS if name not in LONG]
COMPARED = [name for name in METHODS if not name.startswith("idea")]
STUDY: list[tuple[str, Knob]] = [
    ("secateur", {}),
    *[("secateur", {"importance": importance}) for importance in (1.0, "layer")],
    *[("secateur", {"freeze": freeze}) for freeze in (0.4, 0.5, 0.7, 0.8)],
    *[("secateur", {"power": power}) for power in (1.0, 3.0, 12.0)],
    ("secateur", {"at_least": 4}),
    *[
        (name, knob)
        for name in METHODS
        if name.startswith(("idea", "WGSEF, convex", "group lasso"))
        for knob in METHODS[name].knobs
    ],
]


@cache
def fits(task: str, name: str) -> bool:
    """Whether a method can express what the task asks for."""
    return METHODS[name].fits(first_run(task))


@cache
def first_run(task: str) -> Run:
    """What methods are asked about, never trained."""
    return Run(task, load(task)[0].study, 0)


class Suite:
    """The runs that are there, and the way to those that are not."""

    def __init__(self, path: Path = RESULT, minutes: float = float("inf")) -> None:
        self.path = path
        self.until = time.monotonic() + 60 * minutes
        self.begun: dict[tuple[Any, ...], Any] = {}

    def run(self, task: str, name: str, budget: str, seed: int, knob: Knob) -> dict[str, Any]:
        """One run: read where it is finished, made and written where it is not."""
        key = (task, name, budget, seed, json.dumps(knob, sort_keys=True))
        for line in runs.read(self.path):
            if tuple(line[k] for k in KEYS) == key:
                return line
        if time.monotonic() > self.until:
            raise TimeoutError("the time is up; start again to go on")
        start = time.perf_counter()
        made = self.make(task, name, budget, seed, knob)
        own = dict(knob)
        if "cut" in own:  # not the method's: when it cuts
            made.choice = round(own.pop("cut") * made.steps)
        try:
            facts = made.facts(METHODS[name].train(made, **own))
        except (Collapsed, FloatingPointError):
            facts = {**made.scores(made.model), "collapsed": True}
        seconds = round(time.perf_counter() - start + made.spared, 1)
        line = dict(zip(KEYS, key, strict=True)) | facts | {"seconds": seconds, **machine()}
        runs.append(self.path, line)
        print(
            f"{task}  {name:24} {budget:10} seed {seed} {key[-1]:16} {line['score']:7.3f}  "
            f"{line.get('reached', '')}/{line.get('asked', '')}  {seconds:.0f} s",
            flush=True,
        )
        return line

    def make(self, task: str, name: str, budget: str, seed: int, knob: Knob) -> Run:
        """An untrained network in its task."""
        return Run(task, budget, seed, begun=self.begun)

    def knob(self, task: str, method: Method, budget: str) -> Knob:
        """The best of a method's knobs on the validation rows, for one budget, with seed 0."""
        if len(method.knobs) == 1:
            return method.knobs[0]
        about, _ = load(task)
        tried = [self.run(task, method.name, budget, 0, knob) for knob in method.knobs]
        best = (min if about.lower else max)(tried, key=lambda line: line["validation"])
        return json.loads(best["knob"])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="accuracy", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=SHORT)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=COMPARED)
    parser.add_argument("--budgets", nargs="+", help="by default those of the task")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run later")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--study", action="store_true", help="one budget, many settings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    suite = Suite(options.out, options.minutes)
    try:
        for task in options.tasks:
            for seed in options.seeds:
                if options.study:
                    for name, knob in STUDY:
                        suite.run(task, name, load(task)[0].study, seed, knob)
                    continue
                for name in [name for name in options.methods if fits(task, name)]:
                    for budget in options.budgets or load(task)[0].budgets:
                        budget = "dense" if name == "dense" else budget
                        knob = suite.knob(task, METHODS[name], budget)
                        suite.run(task, name, budget, seed, knob)
    except TimeoutError as error:
        print(error)


if __name__ == "__main__":
    main()
