"""What runs a network: torch as it is, torch.compile, or a runtime that reads files of its own.

A file a runtime; table.py knows them all.
"""

from secateur.runtimes.running import prepare, run, using_threads
from secateur.runtimes.table import EXPORTED, RUNTIMES, check_runtime, runtime_of

__all__ = [
    "EXPORTED",
    "RUNTIMES",
    "check_runtime",
    "prepare",
    "run",
    "runtime_of",
    "using_threads",
]
