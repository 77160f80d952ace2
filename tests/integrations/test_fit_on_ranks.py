"""Under DDP and FSDP2, Lightning and the Trainer end with one small network on all processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

pytest.importorskip("lightning")
pytest.importorskip("transformers")
if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("torch has no gloo here", allow_module_level=True)

SCRIPT = Path(__file__).with_name("fit_on_ranks.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# What gloo's threads do now and then when a process ends after its work is done, without us too.
ABORTED = "terminate called without an active exception"


@pytest.mark.parametrize(
    ("kind", "launcher"), [("lightning", []), ("fsdp2", []), ("transformers", TORCHRUN)]
)
def test_two_processes_end_on_the_same_budget(tmp_path: Path, kind: str, launcher: list[str]):
    command = [sys.executable, *launcher, str(SCRIPT), kind, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for _ in range(3):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        if ABORTED not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert torch.equal(one["alive"], other["alive"])
    assert one["settled"] and int(one["alive"].sum()) == 6
    assert one["steps"] == other["steps"] == 30  # 5 epochs of 96 images, 8 a process
    for name, mine in one["weights"].items():
        assert torch.equal(mine, other["weights"][name])
