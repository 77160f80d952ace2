"""The page on several processes points to examples that run, and do what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed as dist

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("torch has no gloo here", allow_module_level=True)

ROOT = Path(__file__).parents[2]
# What gloo's threads do now and then when a process ends after its work is done, without us too.
ABORTED = "terminate called without an active exception"
PAGE = (ROOT / "docs" / "distributed.md").read_text()


def output_of(line: str, folder: Path) -> list[str]:
    """The lines that a command of the page prints."""
    assert line in PAGE
    words = [word for word in line.split() if word != "torchrun"]
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for _ in range(3):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        if ABORTED not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def asked_and_reached(line: str) -> tuple[int, int, int]:
    full, asked, reached = (int(word.replace(",", "")) for word in line.split()[1:4])
    return full, asked, reached


def test_ddp(tmp_path: Path) -> None:
    *_, table, last = output_of("torchrun --nproc-per-node 2 examples/ddp.py", tmp_path)
    full, asked, reached = asked_and_reached(table)
    assert reached <= asked == full // 4
    found = re.fullmatch(r"2 processes, test accuracy ([\d.]+)%", last)
    assert found is not None and float(found[1]) > 93


def test_fsdp_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    begun = output_of("torchrun --nproc-per-node 2 examples/fsdp.py --until 4", tmp_path)
    assert begun == [] and len(list(tmp_path.glob("checkpoints/*/.metadata"))) == 4
    *_, table, last = output_of("torchrun --nproc-per-node 1 examples/fsdp.py", tmp_path)
    full, asked, reached = asked_and_reached(table)
    assert reached <= asked == full // 5
    found = re.fullmatch(r"epochs 5 to 12 on 1 processes, test accuracy ([\d.]+)%", last)
    assert found is not None and float(found[1]) > 80
