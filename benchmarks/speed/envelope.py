"""How long the proximal operator and firm shrinkage take on m group norms, compiled and plain.

    python benchmarks/speed/envelope.py          # about a minute on one core

Writes benchmarks/results/speed-envelope.json: the median CPU seconds of each call on float32 norms,
with weights and costs that differ from group to group.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from secateur.envelope import firm, prox
from secateur.kernels import cpu
from secateur.measurement.host import machine

SEED = 0
SIZES = [1_000, 10_000, 100_000, 1_000_000]
KEPT = 0.1  # of what all groups cost together
REPEATS = {1_000: 51, 10_000: 31, 100_000: 15, 1_000_000: 7}
RESULT = Path(__file__).parents[1] / "results" / "speed-envelope.json"
LIBRARIES = {"compiled": cpu._library, "plain": None}


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for m in SIZES for row in measure(m)]
    result = {
        "command": "python benchmarks/speed/envelope.py",
        "machine": machine(),
        "seeds": [SEED],
        "kept": KEPT,
        "unit": "CPU seconds of the thread, median",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def measure(m: int) -> list[dict]:
    """Time each function, compiled and plain, on one problem of m groups."""
    torch.manual_seed(SEED)
    norms = torch.randn(m).abs()
    scales = {"weights": torch.rand(m) + 0.1, "costs": torch.rand(m) + 0.1}
    level = KEPT * scales["costs"].sum().item()
    calls = {
        "prox, step 0.01": lambda: prox(norms, level, step=0.01, **scales),
        "firm, hardness 0.5": lambda: firm(norms, level, hardness=0.5, **scales),
        "firm, hardness 0.99": lambda: firm(norms, level, hardness=0.99, **scales),
        "firm, hardness 1": lambda: firm(norms, level, hardness=1, **scales),
    }
    rows = []
    for code, cpu._library in LIBRARIES.items():
        rows += [timed(name, code, m, call) for name, call in calls.items()]
    return rows


def timed(name: str, code: str, m: int, call: Callable[[], object]) -> dict:
    call()
    seconds = []
    for _ in range(REPEATS[m]):
        start = time.thread_time()
        call()
        seconds.append(time.thread_time() - start)
    median = statistics.median(seconds)
    print(f"{m:>9,} {name:20} {code:8} {1e3 * median:9.3f} ms")
    return {"call": name, "code": code, "groups": m, "seconds": median}


if __name__ == "__main__":
    main()
