"""`secateur compare`: two runs, or two saved networks, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from secateur.commands.terminal import show

HELP = "two runs, or two saved networks, as ratios"


def add_options(command: argparse.ArgumentParser) -> None:
    """Two paths."""
    command.add_argument("a", metavar="A", help="a run's folder, or a .safetensors file")
    command.add_argument("b", metavar="B")


def run(options: argparse.Namespace) -> None:
    """Print one table."""
    from secateur.report.comparison import compare

    show(compare(Path(options.a), Path(options.b)))
