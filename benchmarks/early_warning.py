"""When the early warning of a run is given, and which of its remedies help.

    python benchmarks/early_warning.py            # all runs, about 10 minutes on one core
    python benchmarks/early_warning.py --seeds 0  # one seed; finished runs are skipped
    python benchmarks/early_warning.py --table    # only write the tables of docs/watching.md

Trains two small networks on scikit-learn's digits, the demo's (with BatchNorm) and one without, at
ordinary and at excessive learning rates and budgets, and notes whether the loop warned. Writes one
JSON line a run to benchmarks/results/early-warning.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import runs
import secateur as sc
from secateur.commands.digits import DigitNet, digits
from secateur.measurement import machine
from secateur.train import Data, Loop
from secateur.utils.rng import seed_all

RESULT = runs.RESULTS / "early-warning.jsonl"
DOCS = Path(__file__).parents[1] / "docs" / "watching.md"
KEYS = ("net", "rate", "flops", "way", "seed")

SEEDS = (0, 1)
EPOCHS, MOMENTUM = 10, 0.9  # SGD, cosine to 0
RATES = {"DigitNet": (0.02, 0.05, 0.1), "plain": (0.02, 0.05)}
BUDGETS = (1.0, 0.5, 0.25, 0.1)
EXCESSIVE = ((0.05, 0.02), (1.0, 0.25), (3.0, 0.25))  # (learning rate, FLOPs)
HARMED = ("DigitNet", 0.02, 0.1)  # the run that remedies are tried on
WAYS: dict[str, dict[str, Any]] = {
    'importance="curvature"': {"importance": "curvature"},
    "importance=1.0": {"importance": 1.0},
    "at_least=4": {"at_least": 4},
    "twice the epochs": {"epochs": 2 * EPOCHS},
    "a learning rate 3 times as high": {"factor": 3.0},
    "a learning rate 3 times as low": {"factor": 1 / 3},
    "freeze=0.9": {"freeze": 0.9},
    "power=3": {"power": 3.0},
}


def plain() -> nn.Module:
    """Three convolutions of 32 filters, without normalisation."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )


def run(net: str, rate: float, flops: float, way: str, seed: int) -> dict[str, Any]:
    """Train one network: its accuracy (0 where training stopped with an error) and warnings."""
    importance = "layer" if net == "DigitNet" else "auto"  # what "auto" was, which often went wrong
    options = {"importance": importance, "at_least": 1, "epochs": EPOCHS, "factor": 1.0}
    options |= {"freeze": None, "power": None, **WAYS.get(way, {})}
    seed_all(seed, -1)
    model = DigitNet() if net == "DigitNet" else plain()
    train, _, test = digits(64 if net == "DigitNet" else 32)
    data = Data(train, test)
    steps = options["epochs"] * len(train)
    sgd = torch.optim.SGD(
        model.parameters(), rate * options["factor"], momentum=MOMENTUM, weight_decay=1e-4
    )
    optimizer = sc.Proximal(
        sgd,
        sc.filters(model, data.example()),
        sc.Budget(flops=flops, at_least=options["at_least"]),
        schedule=sc.Homotopy(steps, freeze=options["freeze"], power=options["power"]),
        importance=options["importance"],
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    said: list[str] = []
    loop = Loop(
        model,
        optimizer,
        data,
        epochs=options["epochs"],
        scheduler=scheduler,
        seed=seed,
        warn=said.append,
    )
    start, error = time.perf_counter(), ""
    try:
        loop.run()
    except FloatingPointError as stop:
        error = str(stop)
    return {
        **dict(zip(KEYS, (net, rate, flops, way, seed), strict=True)),
        "accuracy": 0.0 if error else 100 * loop.history[-1]["accuracy"],
        "warnings": said,
        "error": error,
        "steps": steps,
        "seconds": round(time.perf_counter() - start, 1),
        **machine(),
    }


def jobs(seed: int) -> list[tuple[str, float, float, str, int]]:
    """All runs of one seed."""
    grid = [
        (net, rate, flops, "", seed)
        for net, rates in RATES.items()
        for rate in rates
        for flops in BUDGETS
    ]
    grid += [(net, *pair, "", seed) for net in RATES for pair in EXCESSIVE]
    return [*grid, *((*HARMED, way, seed) for way in WAYS)]


# -- tables -------------------------------------------------------------------------------------


def alarms() -> str:
    """How many runs of each outcome were warned of."""
    lines = [line for line in runs.read(RESULT) if not line["way"]]
    full = {
        net: statistics.mean(x["accuracy"] for x in lines if x["net"] == net and x["flops"] == 1)
        for net in RATES
    }
    outcomes = {
        "within 1 point of the full network": (-100.0, 1.0),
        "1 to 3 points below": (1.0, 3.0),
        "3 to 20 points below": (3.0, 20.0),
        "more, or nothing learnt": (20.0, 200.0),
        "stopped by an error that says so": (-100.0, 200.0),
    }
    rows = ["| accuracy at the end | runs | warned |", "|---|---:|---:|"]
    for words, (low, high) in outcomes.items():
        stopped = words.startswith("stopped")
        found = [
            line
            for line in lines
            if bool(line["error"]) == stopped and low < full[line["net"]] - line["accuracy"] <= high
        ]
        warned = sum(bool(line["warnings"]) for line in found)
        if found:
            rows.append(f"| {words} | {len(found)} | {warned} |")
    return "\n".join(rows)


def remedies() -> str:
    """The accuracy that each change of the harmed run comes to."""
    net, rate, flops = HARMED
    harmed = runs.those(runs.read(RESULT), net=net, rate=rate, flops=flops)
    found = runs.grouped(harmed, "way")
    rows = ["| change | accuracy |", "|---|---:|"]
    for way in ("", *WAYS):
        values = [line["accuracy"] for line in found.get(way, [])]
        cell = "not run"
        if len(values) > 1:
            cell = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
        rows.append(f"| {way or 'none'} | {cell} |")
    return "\n".join(rows)


def write_tables() -> None:
    """Put the tables where docs/watching.md has their places."""
    text = DOCS.read_text(encoding="utf-8")
    for name, table in (("alarms", alarms()), ("remedies", remedies())):
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    DOCS.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = runs.finished(RESULT, KEYS)
    for job in (job for seed in options.seeds for job in jobs(seed) if not options.table):
        if job not in done:
            line = run(*job)
            runs.append(RESULT, line)
            words = "warned" if line["warnings"] else ""
            print(*job, f"{line['accuracy']:.1f}%", words, f"{line['seconds']} s", flush=True)
    write_tables()


if __name__ == "__main__":
    main()
