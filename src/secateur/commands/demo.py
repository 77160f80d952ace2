"""`secateur demo`: a small network on digits, dense and at a quarter of its FLOPs."""

from __future__ import annotations

import argparse
from pathlib import Path

from secateur.commands.terminal import show_run, watched

HELP = "a small network on digits: dense and at 25% of FLOPs"


def add_options(command: argparse.ArgumentParser) -> None:
    """Where its files go."""
    command.add_argument("--out", metavar="DIR", help="for all files (default: secateur-demo)")
    words = "default: report.html, or in --out if given"
    command.add_argument("--report", metavar="FILE", help=words)


def run(options: argparse.Namespace) -> None:
    """Train both, print what they cost, write the report."""
    from secateur.commands.digits import demo
    from secateur.report import html
    from secateur.utils.lock import Lock

    folder = Path(options.out or "secateur-demo")
    default = folder / "report.html" if options.out else Path("report.html")
    with Lock(folder), watched() as watch:
        run = demo(folder, watch)
        report = html(run, options.report or default)
    show_run(run)
    print(f"files in {folder}, report in {report}")
