"""The benchmark for GPUs runs: tiny sizes here, so that it does not fail where a GPU is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "prox.py"


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_smoke_run_writes_every_kind_of_line(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    run = _run("--smoke", "--out", str(out))
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(line["smoke"] and "machine" in line for line in lines)
    eager = [line for line in lines if line.get("mode") == "eager"]
    found = {(line["call"], line["values"], line["group"]) for line in eager}
    assert found == {(c, n, g) for c in ("prox_", "firm_") for n in (100, 2_000) for g in (1, 9)}
    steps = [line for line in lines if line["what"] == "step"]
    assert {(line["network"], line["phase"]) for line in steps} == {
        (network, f"{phase} the freeze")
        for network in ("ResNet-50", "BERT-base", "GPT-2 small")
        for phase in ("before", "after")
    }
    assert all(line["proximal"] > 0 and line["groups"] > 0 for line in steps)
    assert sum(line["what"] == "rows" for line in lines) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_no_figures_are_written() -> None:
    run = _run()
    assert run.returncode != 0 and "--smoke" in run.stderr


def test_the_shapes_are_those_of_the_networks() -> None:
    """Their parameters as the papers and libraries count them."""
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import shapes\n"
        "for make in shapes.NETWORKS.values():\n"
        "    print(sum(p.numel() for p in make(1.0)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    counts = [int(count) for count in run.stdout.split()]
    assert counts[0] == 25_557_032
    assert counts[1] == 109_482_240 - 590_592  # without the pooler
    assert counts[2] == 124_439_808
