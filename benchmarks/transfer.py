"""A pretrained network made smaller in a few epochs: EfficientNet-lite0 on 5,000 CIFAR-10 images.

    PYTHONPATH=benchmarks python benchmarks/transfer.py            # every run that is missing
    PYTHONPATH=benchmarks python benchmarks/transfer.py --only 50% # about six minutes a run

ImageNet weights, images of 64 pixels, four epochs of 100 steps, SGD with momentum and a cosine; at
the end the test accuracy of the small network as it is handed over, and of the same one after its
BatchNorm statistics were averaged anew over 60 batches. `statistics="model"` leaves the running
averages to the model's own momentum; `momentum` is that of its BatchNorm layers (its own is 0.01,
as of most networks that came from TensorFlow). One JSON line a run in results/transfer.jsonl.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import data
import runs
import secateur as sc
from zoo.pretrained import efficientnet_lite0

RESULT = runs.RESULTS / "transfer.jsonl"
KEYS = ("budget", "momentum", "statistics", "freeze", "seed")
IMAGES, BATCH, EPOCHS, SIZE, ANEW = 5_000, 50, 4, 64, 60
LEARNING_RATE = 0.02
SHARES = {"50%": 0.5, "25%": 0.25}

WANTED: list[tuple[Any, ...]] = [
    ("50%", 0.01, "recent", None, 0),
    ("50%", 0.01, "model", None, 0),
    ("50%", 0.1, "recent", None, 0),
    ("50%", 0.1, "model", None, 0),
    ("50%", 0.01, "recent", 0.5, 0),
    ("25%", 0.01, "recent", None, 0),
    ("25%", 0.01, "model", None, 0),
    ("25%", 0.1, "recent", None, 0),
    ("25%", 0.1, "model", None, 0),
    ("25%", 0.01, "recent", 0.5, 0),
    ("dense", 0.01, "model", None, 0),
    ("dense", 0.1, "model", None, 0),
]


def network(momentum: float) -> nn.Module:
    """The pretrained network with ten classes."""
    model = efficientnet_lite0()
    model._fc = nn.Linear(model._fc.in_features, 10)  # pyright: ignore
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    return model


def enlarged(images: Tensor) -> Tensor:
    """Images at the size that the network sees them in."""
    return F.interpolate(images, size=SIZE, mode="bilinear", align_corners=False)


def train(budget: str, momentum: float, statistics: str, freeze: float | None, seed: int) -> Any:
    """One run: what it kept, and the two accuracies."""
    torch.manual_seed(seed)
    images = data.cifar10()
    model, start = network(momentum), time.perf_counter()
    inputs, labels = images.train_images[:IMAGES], images.train_labels[:IMAGES]
    example = enlarged(inputs[:1])
    steps = EPOCHS * IMAGES // BATCH
    optimizer: Any = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
    groups = None
    if budget in SHARES:
        groups = sc.filters(model, example)
        schedule = sc.Homotopy(steps, freeze=freeze)
        optimizer = sc.Proximal(
            optimizer,
            groups,
            sc.Budget(flops=SHARES[budget]),
            statistics=statistics,
            **({"steps": steps} if freeze is None else {"schedule": schedule}),
        )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    model.train()
    for epoch in range(EPOCHS):
        for batch in torch.randperm(IMAGES).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(enlarged(inputs[batch])), labels[batch]).backward()
            optimizer.step()
            rate.step()
        print(f"  epoch {epoch + 1}: {time.perf_counter() - start:.0f} s", flush=True)
    small = model if groups is None else sc.shrink(model, groups)
    footprint = sc.measure(small, example)
    handed_over = accuracy(small, images)
    order = torch.randperm(IMAGES)
    loader = [enlarged(inputs[batch]) for batch in order.split(BATCH)]
    sc.recalibrate(small, loader, batches=ANEW)
    return {
        "params": footprint.params,
        "flops": footprint.flops,
        "handed_over": handed_over,
        "anew": accuracy(small, images),
        "seconds": round(time.perf_counter() - start),
    }


@torch.no_grad()
def accuracy(model: nn.Module, images: data.Images) -> float:
    """The share of test images that are classified rightly, in percent."""
    model.eval()
    pairs = zip(images.test_images.split(500), images.test_labels.split(500), strict=True)
    right = sum(int((model(enlarged(x)).argmax(1) == y).sum()) for x, y in pairs)
    return 100 * right / len(images.test_labels)


def table(lines: list[dict[str, Any]]) -> str:
    """One row a budget and momentum: as handed over and averaged anew, without and with."""
    rows = [
        "| FLOPs | BatchNorm momentum | groups chosen after | as handed over, the model's own "
        "averages | as handed over, ours | averaged anew |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    keys = "budget", "momentum", "freeze"
    for (budget, momentum, freeze), mine in runs.grouped(lines, *keys).items():
        ways = [runs.those(mine, statistics=way) for way in ("model", "recent")]
        cells = [*(_mean(found, "handed_over") for found in ways), _mean(mine, "anew")]
        chosen = "" if budget == "dense" else f"{freeze or 0.8:.0%}"
        rows.append(f"| {budget} | {momentum} | {chosen} | {' | '.join(cells)} |")
    seeds = ", ".join(map(str, sorted({line["seed"] for line in lines})))
    facts = f"{lines[0]['processor']}, torch {lines[0]['torch']}, one thread; seeds {seeds}."
    return "\n".join([*rows, "", facts])


def _mean(lines: list[dict[str, Any]], name: str) -> str:
    return f"{sum(line[name] for line in lines) / len(lines):.1f}" if lines else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--only", help="a budget, such as 50%")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    words = parser.parse_args()
    if words.table:
        print(table(runs.read(RESULT)))
        return
    torch.set_num_threads(1)
    wanted = [run for run in WANTED if words.only in (None, run[0])]
    for line in runs.missing(RESULT, KEYS, wanted, train):
        print({name: line[name] for name in (*KEYS, "handed_over", "anew", "seconds")}, flush=True)


if __name__ == "__main__":
    main()
