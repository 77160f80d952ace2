"""What `Proximal.step` costs beyond the step of the optimizer that it wraps.

    python benchmarks/speed/step.py              # about two minutes on one core
    python benchmarks/speed/step.py --table      # only write the table of docs/speed.md

Trains two copies of a 20-50-500 LeNet on random images, one with plain SGD, one with `Proximal`
around it, an iteration of each in turn on one thread. Writes
benchmarks/results/speed-step.json: the medians of an iteration and of both steps, and the
difference of the steps as a share of the plain iteration, before the groups are chosen and after.
Then the same around a foreach SGD with momentum on the parameters of a ResNet-50, a BERT-base and a
GPT-2 small with random gradients (needs transformers, the extra "zoo"): the plain step and the
wrapped one in turns, CPU time, with the passes over memory that both make.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import models
import torch
import transformers
from torch import Tensor, nn

import secateur as sc
from secateur.measurement.host import machine

SEED = 0
BATCH = 128
ROUNDS = 100  # before the freeze, and as many after it
WARM_UP = 20
TURNS = 25  # of both steps on large models, before the freeze, and as many after it
BUDGETS = {"groups=60": sc.Budget(groups=60), "flops=0.25": sc.Budget(flops=0.25)}
OPTIMIZERS = {
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
}
RESULT = Path(__file__).parents[1] / "results" / "speed-step.json"
DOCS = Path(__file__).parents[2] / "docs" / "speed.md"
BEGIN, END = "<!-- step -->", "<!-- /step -->"


def main() -> None:
    if sys.argv[1:] == ["--table"]:
        write_table()
        return
    torch.set_num_threads(1)
    rows = [
        {"optimizer": optimizer, "budget": budget, **row}
        for optimizer in OPTIMIZERS
        for budget in BUDGETS
        for row in compare(optimizer, budget)
    ]
    shapes = [row for name in SHAPES for row in on_shapes(name)]
    result = {
        "command": "python benchmarks/speed/step.py",
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seeds": [SEED],
        "network": "LeNet 20-50-500, 570 groups, 431,080 parameters",
        "batch": BATCH,
        "unit": "CPU seconds of the thread, median",
        "rows": rows,
        "shapes": shapes,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    write_table()


def write_table() -> None:
    """Put the results where docs/speed.md has their place."""
    found = json.loads(RESULT.read_text())
    lines = ["| parameters of | | plain step | with Proximal | |", "|---|---|---:|---:|---:|"]
    for row in found["shapes"]:
        lines.append(
            f"| {row['model']} | {row['phase']} | {1e3 * row['plain_step']:.1f} ms "
            f"| {1e3 * row['proximal_step']:.1f} ms | {row['ratio']:.2f}x |"
        )
    lines += ["", "| LeNet, batch 128 | budget | | of an iteration |", "|---|---|---|---:|"]
    for row in found["rows"]:
        lines.append(
            f"| {row['optimizer']} | {row['budget']} | {row['phase']} | {row['share']:.1%} |"
        )
    before, _, rest = DOCS.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCS.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


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


def on_shapes(name: str) -> list[dict]:
    """Time the plain step and the wrapped one in turns, on a large model's parameters."""
    torch.manual_seed(SEED)
    make, example, groups_of = SHAPES[name]
    model, example = make(), example()
    groups = groups_of(model, example)
    plain = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    wrapped = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    schedule = sc.Homotopy(2 * TURNS, freeze=0.5, power=1)
    proximal = sc.Proximal(wrapped, groups, sc.Budget(flops=0.5), schedule=schedule)
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(2 * TURNS):
        start = time.thread_time()
        plain.step()
        middle = time.thread_time()
        proximal.step()
        times[proximal.frozen].append((middle - start, time.thread_time() - middle))
    rows = []
    for frozen, phase in ((False, "before the freeze"), (True, "after the freeze")):
        of_plain, of_ours = map(statistics.median, zip(*times[frozen][2:], strict=True))
        print(f"{name:14} {phase:18} {1e3 * of_plain:7.2f} ms {of_ours / of_plain:5.2f}x")
        row = {"model": name, "phase": phase, "groups": len(groups), "plain_step": of_plain}
        rows.append(row | {"proximal_step": of_ours, "ratio": of_ours / of_plain})
    return rows


def resnet50() -> nn.Module:
    config = transformers.ResNetConfig()
    return transformers.ResNetForImageClassification(config)


SHAPES = {
    "ResNet-50": (resnet50, lambda: {"pixel_values": torch.randn(1, 3, 64, 64)}, sc.filters),
    "BERT-base": (models.bert, models.tokens, models.heads_and_neurons),
    "GPT-2 small": (models.gpt2, models.tokens, models.heads_and_neurons),
}


def iteration(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[float, float]:
    """The CPU seconds of one training iteration, and of its optimizer step (others may compute)."""
    start = time.thread_time()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    middle = time.thread_time()
    optimizer.step()
    end = time.thread_time()
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
