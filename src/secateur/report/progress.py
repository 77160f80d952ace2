"""Progress bars on stderr, for people who watch: nothing where stderr is no terminal.

How much there is to do flows in; a function that says how much is done flows out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from secateur.deploy.extras import require


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs; a pulse where the amount of work is unknown.

    Args:
        what: the work, such as "training".
        total: units of work.

    Yields:
        `advance(to, note)`: that so many units are done, and a word on how it goes.

    Raises:
        ImportError: rich is missing and stderr is a terminal.

    Example:
        >>> with progress("counting", 3) as advance:
        ...     for i in range(3):
        ...         advance(i + 1, note=f"at {i}")
    """
    if not sys.stderr.isatty():
        yield lambda to=0, note="": None
        return
    bars = require("rich.progress", extra="cli")
    console = require("rich.console", extra="cli").Console(stderr=True)
    columns = [
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[note]}"),
        bars.TimeRemainingColumn() if total else bars.TimeElapsedColumn(),
    ]
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda to=0, note="": bar.update(task, completed=to, note=note)
