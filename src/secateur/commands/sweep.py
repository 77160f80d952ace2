"""`secateur sweep`: a training for every budget and seed, side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.commands.options import AMOUNT_HELP, DATA_HELP, add_fields, add_training, fill
from secateur.commands.terminal import show, to_go_on, watched
from secateur.train.settings import Resources, Settings

if TYPE_CHECKING:
    from secateur.report.sweep import SweepTrial

HELP = "train for every budget and seed, in parallel"
MORE_HELP = f"""\
Each of --budgets is a budget of its own, trained once with every seed; commas inside one join what
must hold at once. The same command again goes on with what is missing, from the checkpoints, and
may name more budgets and seeds. On a cluster, --out is a folder that all machines share.

{AMOUNT_HELP}

{DATA_HELP}"""


def add_options(command: argparse.ArgumentParser) -> None:
    """What all runs share, in what they differ, and what each gets."""
    command.allow_abbrev = False  # --budget would pass for --budgets, and they differ
    command.epilog = MORE_HELP
    add_training(command, without=("budget", "seed"))
    command.add_argument(
        "--budgets",
        required=True,
        action="extend",
        nargs="+",
        metavar="WHAT=AMOUNT",
        help="one run each: flops=50%% flops=25%%,params=1M",
    )
    words = "such as 0,1,2 (default: 0)"
    command.add_argument("--seeds", default="0", metavar="N,N,...", help=words)
    words = "of a Ray cluster: auto, HOST:PORT (default: this machine)"
    command.add_argument("--address", help=words)
    add_fields(command, Resources)


def run(options: argparse.Namespace) -> int:
    """Train what is missing, say how each run ended, compare."""
    from secateur.report.sweep import sweep_table
    from secateur.train.spec import parse_seeds
    from secateur.train.sweep import SweepInterrupted, sweep

    try:
        with watched() as watch:
            found = sweep(
                fill(Settings, options, budget=(), seed=0),
                options.out,
                budgets=options.budgets,
                seeds=parse_seeds(options.seeds),
                address=options.address,
                resources=fill(Resources, options),
                checkpoint_every=options.checkpoint_every,
                to_onnx=not options.no_export,
                watch=watch,
                ended=_told,
            )
    except SweepInterrupted as stop:
        print(f"secateur: {stop}{resume_hint(options)}", file=sys.stderr)
        return 128 + stop.number
    show(sweep_table(found))
    print(f"runs, results.jsonl and report.html in {options.out}")
    if not found.failed:
        return 0
    count = f"{len(found.failed)} of {len(found.trials)} runs failed"
    where = "error.txt in a run's folder shows where"
    print(f"secateur: error: {count}; {where}{resume_hint(options)}", file=sys.stderr)
    return 2


def resume_hint(options: argparse.Namespace) -> str:
    """How to go on, once the sweep has begun."""
    return to_go_on(options) if (Path(options.out) / "sweep.json").exists() else ""


def _told(trial: SweepTrial) -> None:
    print(trial, file=sys.stderr if trial.failure else sys.stdout, flush=True)
