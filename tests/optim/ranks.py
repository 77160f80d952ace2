"""Processes that run functions side by side on gloo, each call with a time limit.

In: a function of a module that can be imported, and its arguments. Out: what it returned on every
rank; or an error, for a hang too.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import distributed as dist

LIMIT = 60.0  # seconds for one call
PRELOADED = [
    *("secateur", "torch.distributed.fsdp", "torch.distributed.tensor.parallel"),
    *("torch.distributed.tensor.debug", "torch.distributed.checkpoint.state_dict"),
]


class RankError(RuntimeError):
    """What the ranks ended with, as {rank: traceback}, in `ends`."""

    def __init__(self, ends: dict[int, str]) -> None:
        super().__init__("\n".join(f"rank {rank}: {end}" for rank, end in ends.items()))
        self.ends = ends


class Ranks:
    """Processes that stay between calls; after an error they are gone and start anew.

    Args:
        world: how many.
        patience: seconds that a collective waits for the others.
    """

    def __init__(self, world: int = 2, patience: float = 20.0) -> None:
        self.world = world
        self.patience = patience
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []

    def start(self) -> None:
        context = _context()
        meeting = os.path.join(tempfile.mkdtemp(), "meeting")
        for rank in range(self.world):
            here, there = context.Pipe()
            options = (rank, self.world, meeting, self.patience, there)
            process = context.Process(target=_serve, args=options, daemon=True)
            process.start()
            there.close()  # so that the pipe breaks when the process ends
            self.processes.append(process)
            self.pipes.append(here)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.pipes = [], []

    def __call__(
        self, function: Callable[..., Any], *args: Any, limit: float = LIMIT, **options: Any
    ) -> list[Any]:
        """Run `function(rank, world, ...)` on every rank; what each returned, in order."""
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send((function, args, options))
        deadline = time.monotonic() + limit
        results, ends = [], {}
        for rank, pipe in enumerate(self.pipes):
            good, value = _received(pipe, deadline)
            results.append(value)
            if not good:
                ends[rank] = value
        if ends:
            self.stop()
            raise RankError(ends)
        return results


def _context() -> Any:
    """Where there is one, a server that has imported everything, from which processes fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _received(pipe: Connection, deadline: float) -> tuple[bool, Any]:
    try:
        if not pipe.poll(max(deadline - time.monotonic(), 0.1)):
            return False, "hangs"
        good, content = pipe.recv()
    except (EOFError, ConnectionError):
        return False, "died"
    return good, torch.load(io.BytesIO(content), weights_only=False) if good else content


def _serve(rank: int, world: int, meeting: str, patience: float, pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=patience),
    )
    while True:
        try:
            function, args, options = pipe.recv()
        except EOFError:
            return  # the tests have ended
        try:
            content = io.BytesIO()
            torch.save(function(rank, world, *args, **options), content)
            pipe.send((True, content.getvalue()))
        except Exception:
            pipe.send((False, traceback.format_exc()))
