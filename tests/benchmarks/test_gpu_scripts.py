"""The accuracy benchmark for GPUs runs in small, and goes on with what was interrupted."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from accuracy.method import METHODS
from accuracy.task import TASKS
from gpu import accuracy


@pytest.fixture
def task() -> Iterator[str]:
    known = set(TASKS)
    name = next(name for name in accuracy.register(1, smoke=True) if name.startswith("vgg16"))
    yield name
    for added in set(TASKS) - known:
        del TASKS[added]


WAYS = {
    "secateur": METHODS["secateur"].train,
    "train, prune, fine-tune": partial(METHODS["train, prune, fine-tune"].train, importance=1.0),
    "paper: Prox-SVRG": partial(accuracy.left, penalty="Prox-SVRG", lam=1e-3),
}


@pytest.mark.parametrize("name", WAYS)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    task: str, name: str, tmp_path: Path
) -> None:
    def run(folder: str, until: float) -> accuracy.LongRun:
        clock = accuracy.Clock(until, tmp_path / folder, every=1)
        return accuracy.LongRun(clock, task, "a half", 0)

    whole = WAYS[name](run("whole", float("inf")))
    for _ in range(3):  # a step a start
        with pytest.raises(TimeoutError):
            WAYS[name](run("pieces", time.monotonic()))
    pieces = WAYS[name](run("pieces", float("inf")))
    for ours, theirs in zip(pieces.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
