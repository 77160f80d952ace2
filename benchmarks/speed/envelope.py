"""How long the proximal operator and firm shrinkage take on m group norms, per root method.

    python benchmarks/speed/envelope.py          # about a minute on one core

Writes benchmarks/results/speed-envelope.json: the median seconds of each call on float32 norms,
with weights and costs that differ from group to group, on the CPU and, if there is one, a GPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from secateur.envelope import firm, prox, root
from secateur.kernels import cpu
from secateur.measurement.host import machine

SEED = 0
SIZES = [1_000, 10_000, 100_000, 1_000_000]
KEPT = 0.1  # of what all groups cost together
REPEATS = {1_000: 51, 10_000: 31, 100_000: 15, 1_000_000: 7}
RESULT = Path(__file__).parents[1] / "results" / "speed-envelope.json"
# How each method of the root is forced: the compiled library, and from where Newton takes over.
METHODS = {
    "fused": (cpu._library, 0),
    "newton": (None, 0),
    "sorted": (None, sys.maxsize),
}


def main() -> None:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = [row for device in devices for m in SIZES for row in measure(m, device)]
    result = {
        "command": "python benchmarks/speed/envelope.py",
        "machine": machine(),
        "seeds": [SEED],
        "kept": KEPT,
        "unit": "seconds, median",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def measure(m: int, device: str) -> list[dict]:
    """Time each function by each method on one problem of m groups."""
    torch.manual_seed(SEED)
    norms = torch.randn(m).abs().to(device)
    scales = {"weights": torch.rand(m).to(device) + 0.1, "costs": torch.rand(m).to(device) + 0.1}
    level = KEPT * scales["costs"].sum().item()
    calls = {
        "prox, step 0.01": lambda: prox(norms, level, step=0.01, **scales),
        "firm, hardness 0.5": lambda: firm(norms, level, hardness=0.5, **scales),
        "firm, hardness 0.99": lambda: firm(norms, level, hardness=0.99, **scales),
    }
    methods = METHODS if device == "cpu" else {"sorted": METHODS["sorted"]}
    rows = []
    for method, (cpu._library, root.NEWTON_FROM) in methods.items():
        for name, call in calls.items():
            rows.append(timed(name, method, m, device, call))
    calls = {"firm, hardness 1": lambda: firm(norms, level, hardness=1, **scales)}
    rows += [timed(name, "sort", m, device, call) for name, call in calls.items()]
    return rows


def timed(name: str, method: str, m: int, device: str, call: Callable[[], object]) -> dict:
    call()
    seconds = []
    for _ in range(REPEATS[m]):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(f"{device:5} {m:>9,} {name:20} {method:7} {1e3 * median:9.3f} ms")
    return {"call": name, "method": method, "groups": m, "device": device, "seconds": median}


if __name__ == "__main__":
    main()
