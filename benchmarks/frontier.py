"""Three networks from one run, against three runs: LeNet 20-50-500 on all of MNIST.

    python benchmarks/frontier.py           # three seeds, about 6 minutes on one core
    python benchmarks/frontier.py --table   # beside the separate runs of lenet_mnist.py

The run takes as many steps as each of the separate runs of lenet_mnist.py. Writes one JSON line a
network to benchmarks/results/frontier.jsonl: the accuracy on the 10,000 test images of the network
as it is when its stage ends. Nothing was tuned on the test images.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from statistics import mean, stdev

import torch
from torch.nn import functional as F

import data
import lenet_mnist as lenet
import runs
import secateur as sc
from secateur.measurement import machine
from secateur.train.run import cosine

RESULT = runs.RESULTS / "frontier.jsonl"
KEPT = (60, 30, 15)


def run(images: data.Images, seed: int) -> list[dict]:
    """Train once; test each network when training has settled on it."""
    torch.manual_seed(seed)
    model = lenet.LeNet().to(memory_format=torch.channels_last)
    example = images.train_images[:1]
    groups = sc.filters(model, example) + sc.neurons(model, example)
    steps_an_epoch = len(images.train_images) // lenet.BATCH
    schedule = sc.Homotopy(lenet.EPOCHS * steps_an_epoch, stages=len(KEPT))
    sgd = torch.optim.SGD(model.parameters(), lenet.LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
    budgets = [sc.Budget(groups=kept) for kept in KEPT]
    optimizer = sc.Proximal(sgd, groups, budgets, schedule=schedule)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(schedule))
    found, start = [], time.perf_counter()
    for _ in range(lenet.EPOCHS):
        order = torch.randperm(len(images.train_images))
        for batch in order[: steps_an_epoch * lenet.BATCH].split(lenet.BATCH):
            loss = F.cross_entropy(model(images.train_images[batch]), images.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if optimizer.settled:
                small = sc.shrink(model, groups)
                reached = optimizer.budget.reached(small, example)["groups"]
                found.append(
                    {
                        "task": "lenet-mnist",
                        "kept": reached.asked,
                        "seed": seed,
                        "reached": reached.reached,
                        "accuracy": lenet.accuracy(small, images),
                        "flops": sc.measure(small, example, latency=False).flops,
                        "step": optimizer.steps_taken,
                        "seconds": round(time.perf_counter() - start, 1),
                        **machine(),
                    }
                )
    return found


def table() -> str:
    """The accuracies of one run for all beside those of a run for each."""
    one, each = defaultdict(list), defaultdict(list)
    for line in runs.read(RESULT):
        one[line["kept"]].append(line["accuracy"])
    for line in runs.read(lenet.RESULT):
        each[line["budget"]].append(line["accuracy"])
    rows = [f"{'groups kept':>12} {'one run for all':>18} {'a run for each':>18}"]
    for kept in KEPT:
        figures = (one[kept], each[f"{kept} groups"])
        words = [f"{mean(x):.2f} ± {stdev(x):.2f}" if len(x) > 1 else "-" for x in figures]
        rows.append(f"{kept:>12} {words[0]:>18} {words[1]:>18}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        images = data.mnist()
        done = runs.finished(RESULT, ("seed",))
        for seed in options.seeds:
            for line in run(images, seed) if (seed,) not in done else ():
                runs.append(RESULT, line)
                print(seed, line["kept"], f"{line['accuracy']:.2f}%", line["seconds"], flush=True)
    print(table())


if __name__ == "__main__":
    main()
