"""The history of a run as it grows: kept, told to loggers, and looked at for trouble.

In: records, one after another. Out: the history; the loggers' lines and curves; early warnings.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from secateur.integrations.alarm import Alarm
from secateur.integrations.loggers import Log, Logger


def warn(words: str) -> None:
    """Give a warning of Python's."""
    warnings.warn(words, UserWarning, stacklevel=2)


class Watching:
    """Keeps what a run has seen, and passes it on.

    Args:
        loggers: told every record.
        warn: told what the alarm says; its words are in the history too.

    Attributes:
        history: the records so far.

    Example:
        >>> watching = Watching(warn=lambda words: print(words.split(":")[0]))
        >>> watching.add({"step": 0, "blank_loss": 2.3})
        >>> for step in range(20):
        ...     loss = 0.5 if step < 10 else 2.2
        ...     watching.add({"step": step, "loss": loss, "hardness": step / 20})
        step 13
        >>> [record["step"] for record in watching.history if "warning" in record]
        [13]
    """

    def __init__(self, loggers: Sequence[Logger] = (), warn: Callable[[str], None] = warn) -> None:
        self.history: list[dict[str, Any]] = []
        self._loggers, self._warn = loggers, warn
        self._log = Log(())
        self._alarm = Alarm()

    def telling(self, settings: Mapping[str, Any]) -> Log:
        """The context in which records reach the loggers, from where the history is."""
        self._log = Log(self._loggers, settings, self.history)
        return self._log

    def add(self, record: dict[str, Any]) -> None:
        """Take a record in, and the warning that follows from it."""
        self._keep(record)
        if words := self._look_at(record):
            self._keep({"step": record["step"], "warning": words})
            self._warn(words)

    def go_on(self, history: Sequence[dict[str, Any]]) -> None:
        """Be where a run with this history was: nothing is said again."""
        self.history, self._alarm = list(history), Alarm()
        for record in history:
            self._look_at(record)

    def _keep(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        self._log(record)

    def _look_at(self, record: Mapping[str, Any]) -> str:
        if "blank_loss" in record:
            self._alarm = Alarm(record["blank_loss"])
        if "hardness" not in record:
            return ""
        return self._alarm.see(record["step"], record["loss"], record["hardness"])
