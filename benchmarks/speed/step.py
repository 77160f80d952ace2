"""What `Proximal.step` costs beyond the step of the optimizer that it wraps.

    python benchmarks/speed/step.py              # about a minute on one core

Trains two copies of a 20-50-500 LeNet on random images, one with plain SGD, one with `Proximal`
around it, an iteration of each in turn on one thread. Writes
benchmarks/results/speed-step.json: the medians of an iteration and of both steps, and the
difference of the steps as a share of the plain iteration, before the groups are chosen and after.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.measure.machine import machine

SEED = 0
BATCH = 128
ROUNDS = 300  # before the freeze, and as many after it
WARM_UP = 20
BUDGETS = {"groups=60": sc.Budget(groups=60), "flops=0.25": sc.Budget(flops=0.25)}
OPTIMIZERS = {
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
}
RESULT = Path(__file__).parents[1] / "results" / "speed-step.json"


def main() -> None:
    torch.set_num_threads(1)
    rows = [
        {"optimizer": optimizer, "budget": budget, **row}
        for optimizer in OPTIMIZERS
        for budget in BUDGETS
        for row in compare(optimizer, budget)
    ]
    result = {
        "command": "python benchmarks/speed/step.py",
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seeds": [SEED],
        "network": "LeNet 20-50-500, 570 groups, 431,080 parameters",
        "batch": BATCH,
        "unit": "seconds, median",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def compare(optimizer: str, budget: str) -> list[dict]:
    """Time both trainings side by side, before the freeze and after it."""
    torch.manual_seed(SEED)
    images, labels = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
    plain, ours = lenet(), lenet()
    step = OPTIMIZERS[optimizer](plain.parameters())
    groups = sc.filters(ours, images[:1]) + sc.neurons(ours, images[:1])
    schedule = sc.Homotopy(WARM_UP + 2 * ROUNDS, freeze=(WARM_UP + ROUNDS) / (WARM_UP + 2 * ROUNDS))
    proximal = sc.Proximal(
        OPTIMIZERS[optimizer](ours.parameters()), groups, BUDGETS[budget], schedule=schedule
    )
    times = []
    for _ in range(WARM_UP + 2 * ROUNDS):
        both = iteration(plain, step, images, labels), iteration(ours, proximal, images, labels)
        times.append((proximal.frozen, *both))
    rows = []
    for frozen, name in ((False, "before the freeze"), (True, "after the freeze")):
        part = [(a, b) for when, a, b in times[WARM_UP:] if when == frozen][1:]
        whole, of_step = (statistics.median(a[i] for a, _ in part) for i in (0, 1))
        of_ours = statistics.median(b[1] for _, b in part)
        share = (of_ours - of_step) / whole
        print(
            f"{optimizer:14} {budget:11} {name:18} {1e3 * (of_ours - of_step):6.3f} ms {share:6.2%}"
        )
        rows.append(
            {
                "phase": name,
                "iteration": whole,
                "plain_step": of_step,
                "proximal_step": of_ours,
                "share": share,
            }
        )
    return rows


def iteration(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[float, float]:
    """The seconds of one training iteration, and of its optimizer step."""
    start = time.perf_counter()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    middle = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    return end - start, end - middle


def lenet() -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


if __name__ == "__main__":
    main()
