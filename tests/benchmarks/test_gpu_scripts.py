"""The accuracy benchmark for GPUs runs in small, and goes on with what was interrupted."""

import time
from collections.abc import Iterator
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


@pytest.mark.parametrize("method", ["secateur", "train, prune, fine-tune"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    task: str, method: str, tmp_path: Path
) -> None:
    def run(folder: str, until: float) -> accuracy.LongRun:
        clock = accuracy.Clock(until, tmp_path / folder, every=1)
        return accuracy.LongRun(clock, task, "a half", 0)

    knob = METHODS[method].knobs[0]
    whole = METHODS[method].train(run("whole", float("inf")), **knob)
    for _ in range(3):  # a step a start
        with pytest.raises(TimeoutError):
            METHODS[method].train(run("pieces", time.monotonic()), **knob)
    pieces = METHODS[method].train(run("pieces", float("inf")), **knob)
    for ours, theirs in zip(pieces.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
