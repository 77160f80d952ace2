"""A request to stop, noted until there is a good moment.

Signals of the system flow in; a number to look at flows out.
"""

from __future__ import annotations

import signal
import threading
from typing import Any


class Signals:
    """Notes SIGINT and SIGTERM instead of dying; a second one of a kind acts as usual."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        self.received = number
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
