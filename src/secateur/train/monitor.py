"""The history of a run as it grows: kept, told to loggers, and looked at for trouble.

In: records, one after another. Out: the history, the loggers' lines and curves, and early warnings:
words on what happened and what to change where the loss jumps while the budget presses harder.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from secateur.train.loggers import Log, Logger


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
        >>> watching.add({"step": 0, "baseline_loss": 2.3})
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
        self._alarm = LossMonitor()

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
        self.history, self._alarm = list(history), LossMonitor()
        for record in history:
            self._look_at(record)

    def _keep(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        self._log(record)

    def _look_at(self, record: Mapping[str, Any]) -> str:
        if "baseline_loss" in record:
            self._alarm = LossMonitor(record["baseline_loss"])
        if "hardness" not in record:
            return ""
        return self._alarm.see(record["step"], record["loss"], record["hardness"])


RECENT = 7  # records whose median is the loss's level: three bad ones in a row are noise
JUMP = 0.5  # of the blank loss: a rise that training rarely makes good before the groups are chosen
CHOSEN = 0.1  # of the blank loss: a rise at the choice, after which there is less time
LEARNT = 0.02  # of the blank loss: a network that has gained less has learnt nothing
PRESSING = 0.2  # hardness added up over steps, before which the budget hardly matters

RATE = "Lower the learning rate, or let it rise from 0 over the first steps"
HELP = (
    'If it stays up: weigh groups otherwise (importance="curvature", or 1.0), train longer, keep '
    "more of every layer (at_least=4), or ask for less (a larger budget)"
)


class LossMonitor:
    """Watches for a loss that jumps while hardness rises.

    The level of the loss is the median of the last `RECENT` records, and its scale is the blank
    loss: that of outputs that are all zero, of a network that knows nothing. An alarm is given,
    once in each stage of a run,

    - while groups compete, once the hardness of all steps adds up to `PRESSING`: when the level
      lies `JUMP` of the blank loss above the lowest level so far, or when nothing has been learnt;
    - after the choice of groups: when it lies `CHOSEN` of the blank loss above where it was before,
      and above each of the last `RECENT` records from before.

    Args:
        blank: the blank loss. Where it is None or not above 0, the first loss takes its place.

    Example:
        >>> alarm = LossMonitor(blank=2.3)
        >>> losses = [2.3, 1.5, 0.9, 0.6, 0.5, 0.4, 0.4, 0.4, 0.5, 1.9, 2.0, 2.0, 2.1, 2.2]
        >>> told = [alarm.see(step, loss, step / 20) for step, loss in enumerate(losses)]
        >>> [step for step, words in enumerate(told) if words]
        [12]
        >>> told[12].split(" while")[0]
        'step 12: the loss rose from 0.5 to 1.9'
    """

    def __init__(self, blank: float | None = None) -> None:
        self._blank = blank
        self._step, self._hardness = 0, 0.0  # of the record before
        self._begin()

    def _begin(self) -> None:
        """A stage begins: nothing of the one before is compared with."""
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._best, self._best_hardness = math.inf, 0.0
        self._pressed = 0.0
        self._before: tuple[float, ...] = ()  # the last records when the groups were chosen
        self._given = False  # or can't be any more

    def see(self, step: int, loss: float, hardness: float) -> str:
        """Take one record in.

        Args:
            step: of training.
            loss: the mean over the steps since the last record.
            hardness: in [0, 1]; where it falls, a new stage has begun.

        Returns:
            The warning, or "".
        """
        if self._blank is None or not 0 < self._blank < math.inf:
            self._blank = abs(loss)
        blank = self._blank
        if hardness < self._hardness:
            self._begin()
        if hardness >= 1 > self._hardness:
            self._before = tuple(self._recent)
            self._recent.clear()
        self._pressed += hardness * (step - self._step)
        self._step, self._hardness = step, hardness
        self._recent.append(loss if not math.isnan(loss) else math.inf)
        level = self._level()
        if level is None or self._given:
            return ""
        words = self._judge(level, hardness, blank)
        self._given = bool(words) or hardness >= 1  # the choice is judged once, right after it
        return f"step {step:,}: {words}" if words else ""

    def _level(self) -> float | None:
        """The median of the last records, once there are enough."""
        return median(self._recent) if len(self._recent) == RECENT else None

    def _judge(self, level: float, hardness: float, blank: float) -> str:
        if hardness >= 1:
            return self._judge_choice(level, blank)
        if level < self._best:
            self._best, self._best_hardness = level, hardness
        if self._pressed < PRESSING:
            return ""
        if level - self._best > JUMP * blank:
            return (
                f"the loss rose from {self._best:.2g} to {level:.2g} while hardness rose from "
                f"{self._best_hardness:.2g} to {hardness:.2g} (it is {blank:.2g} for outputs "
                "of zero). "
            ) + (HELP if level <= blank else RATE)
        if self._best > (1 - LEARNT) * blank:
            return (
                f"the loss is {level:.2g}, no better than that of outputs of zero "
                f"({blank:.2g}), and the budget begins to press. {RATE}"
            )
        return ""

    def _judge_choice(self, level: float, blank: float) -> str:
        if len(self._before) < RECENT or level <= max(self._before):
            return ""
        before = median(self._before)
        if level - before <= CHOSEN * blank:
            return ""
        return (
            f"the loss rose from {before:.2g} to {level:.2g} when the groups were chosen: some of "
            f"those that were given up were still at work. {HELP}"
        )
