"""What commands say: progress on stderr, tables on stdout, and how a run that stopped goes on.

A run, tables or a command's words flow in; text for the terminal flows out.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.report import Run


def rank() -> int:
    """Which of a launcher's processes this is; 0 without a launcher."""
    return int(os.environ.get("RANK", 0))


def to_go_on(options: argparse.Namespace, *more: str) -> str:
    """The command that continues what was begun, on a line of its own."""
    words = [*options.words, *(word for word in more if word not in options.words)]
    return f"\nto go on:  {shlex.join(['secateur', *words])}"


@contextmanager
def watched() -> Iterator[Callable[[str, int, int, str], None]]:
    """A function that shows what is being done, as a bar on stderr where that is a terminal."""
    from secateur.report.progress import Watcher

    with Watcher() as watcher:
        yield watcher


def show_run(run: Run) -> None:
    """Print what a run was asked, what it reached, cost, and what was checked."""
    from secateur.report.tables import asked_table, checks_table, comparison_table, frontier_table

    show(
        asked_table(run.asked),
        *([frontier_table(run.frontier, run.metric)] if run.frontier else []),
        comparison_table(run.networks, run.metric),
        checks_table(run.checks),
    )


def show(*tables: Any) -> None:
    """Print rich tables."""
    from secateur.utils.extras import require

    console = require("rich.console", extra="cli").Console()
    if not console.is_terminal:
        console.width = 120  # files and pipes have no width of their own
    for table in tables:
        console.print(table)
