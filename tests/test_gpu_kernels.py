"""The GPU's kernels are sound for a GPU: its compiler takes them, where no GPU is too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "gpu_kernels.py"


def test_every_kernel_compiles_for_every_dtype(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "80"],
        env=own | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    compiled = {tuple(line.split()[1:3]) for line in run.stdout.splitlines()}
    dtypes = {dtype for dtype, _ in compiled}
    assert dtypes == {"fp16", "bf16", "fp32", "fp64"}
    assert {kernel for _, kernel in compiled} == {
        *("few", "sweep", "finish", "factors", "norms", "scale", "squares", "totals")
    }
    assert len(compiled) == 4 * 8
