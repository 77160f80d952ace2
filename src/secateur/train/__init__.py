"""The loop behind `secateur train`: it can stop after any step and go on as if it had not.

Each name is imported when it is first used, so that the command line need not wait for torch to
know a run's `Settings`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.train.checkpoint import CheckpointError
    from secateur.train.data import Data
    from secateur.train.distill import Distill
    from secateur.train.finishing import finish
    from secateur.train.loggers import JsonLines, Logger, Tracker
    from secateur.train.loop import Interrupted, Loop
    from secateur.train.settings import Settings

__all__ = [
    "CheckpointError",
    "Data",
    "Distill",
    "Interrupted",
    "JsonLines",
    "Logger",
    "Loop",
    "Settings",
    "Tracker",
    "finish",
]

_NAMES = {
    "checkpoint": ["CheckpointError"],
    "data": ["Data"],
    "distill": ["Distill"],
    "finishing": ["finish"],
    "loggers": ["JsonLines", "Logger", "Tracker"],
    "loop": ["Interrupted", "Loop"],
    "settings": ["Settings"],
}
_HOME = {name: file for file, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker shall find what is missing

    def __getattr__(name: str) -> Any:
        """Import a public name from its file."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
