"""Progress on stderr, for people who watch: nothing where stderr is no terminal, but warnings.

What is being done flows in; one line that moves flows out.
"""

from __future__ import annotations

import sys
from typing import Any

from secateur.utils.extras import require

WARNING = "warning"  # in the place of what is being done: words that stay on the screen


class Watcher:
    """Shows one piece of work at a time; a bar where its amount is known, a pulse where not.

    Raises:
        ImportError: stderr is a terminal and rich is missing.

    Example:
        >>> with Watcher() as watch:
        ...     for step in range(3):
        ...         watch("counting", step + 1, 3, f"at {step}")
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._what, self._task = "", None
        if sys.stderr.isatty():
            bars = require("rich.progress", extra="cli")
            console = require("rich.console", extra="cli").Console(stderr=True)
            self._bar = bars.Progress(
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.TextColumn("{task.fields[note]}"),
                bars.TimeElapsedColumn(),
                console=console,
                transient=True,
            )

    def __call__(self, what: str, done: int, total: int, note: str) -> None:
        """Say what is being done, how much of how much (0: unknown), and how it goes.

        Where what is being done is `WARNING`, the note is said for good.
        """
        if what == WARNING:
            self._warn(f"secateur: warning: {note}")
            return
        if self._bar is None:
            return
        if what != self._what:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._what = what
            self._task = self._bar.add_task(what, total=total or None, note=note)
        self._bar.update(self._task, completed=done, note=note)

    def _warn(self, words: str) -> None:
        if self._bar is None:
            print(words, file=sys.stderr)
        else:
            self._bar.console.print(words, style="yellow", markup=False, highlight=False)

    def __enter__(self) -> Watcher:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
