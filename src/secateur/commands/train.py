"""`secateur train`: a model of one's own, trained to a budget."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from secateur.commands.options import AMOUNT_HELP, DATA_HELP, add_device, add_training, fill
from secateur.commands.terminal import rank, show_run, to_go_on, watched
from secateur.train.settings import Settings

HELP = "train a model of your own to a budget"
MORE_HELP = f"""\
{AMOUNT_HELP} Several, separated by commas or by repeating --budget, must all hold.
Several amounts of one measure (flops=50%,25%,10%) are a frontier, one network each, in one run.

{DATA_HELP}

On several processes: torchrun --nproc-per-node 2 -m secateur train ..., or accelerate launch -m
secateur train ... Each takes its rows of every batch; steps and schedule stay the same."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Everything that `Settings` has, and how the run is done."""
    command.epilog = MORE_HELP
    add_training(command)
    add_device(command, None, "cpu, cuda, ... (default: what Accelerate finds)")
    command.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    command.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="LOGGER",
        help="tensorboard (into OUT/tensorboard), wandb, mlflow, ... or MODULE:FACTORY of your own",
    )


def run(options: argparse.Namespace) -> int:
    """Train, then print what was asked and reached."""
    from secateur.train.loop import Interrupted
    from secateur.train.run import train

    try:
        with watched() as watch:
            run = train(
                fill(Settings, options),
                Path(options.out),
                resume=options.resume,
                device=options.device,
                checkpoint_every=options.checkpoint_every,
                log=options.log,
                to_onnx=not options.no_export,
                watch=watch,
            )
    except Interrupted as stop:
        if not rank():
            print(f"secateur: {stop}{resume_hint(options)}", file=sys.stderr)
        return 128 + stop.number
    if run is not None:
        show_run(run)
        print(f"files and report in {options.out}")
    return 0


def resume_hint(options: argparse.Namespace) -> str:
    """How to go on, where there is a checkpoint."""
    there = (Path(options.out) / "checkpoint").exists()
    return to_go_on(options, "--resume") if there else ""
