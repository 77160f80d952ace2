"""LeNet 20-50-500 on all of MNIST, trained once to each budget, against the dense network.

    python benchmarks/lenet_mnist.py                 # all runs, about 25 minutes on one core
    python benchmarks/lenet_mnist.py --seeds 0       # one seed; finished runs are skipped
    python benchmarks/lenet_mnist.py --latency       # how much faster the small networks are

Writes one JSON line a run to benchmarks/results/lenet-mnist.jsonl: the accuracy on the 10,000 test
images after the last epoch (never the best epoch's), and what was asked and reached, counted on the
shrunk network. Nothing was tuned on the test images.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import data
import runs
import secateur as sc
from secateur import deploy
from secateur.measurement import machine, measure_latency
from secateur.surgery.equivalence import difference

RESULT = runs.RESULTS / "lenet-mnist.jsonl"
LATENCY = runs.RESULTS / "lenet-mnist-latency.jsonl"

EPOCHS = 6
BATCH = 128
LEARNING_RATE = 0.05  # cosine to 0, momentum 0.9, weight decay 5e-4
BUDGETS = {  # of 570 groups, and of the FLOPs of one image
    "dense": None,
    "60 groups": {"groups": 60},
    "30 groups": {"groups": 30},
    "15 groups": {"groups": 15},
    "10% FLOPs": {"flops": 0.10},
    "5% FLOPs": {"flops": 0.05},
}


class LeNet(nn.Module):
    """Two convolutions of 20 and 50 filters and a hidden layer of 500 units: 570 groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


def train(images: data.Images, seed: int, budget: sc.Budget | None) -> tuple[nn.Module, sc.Groups]:
    """One ordinary training run; the budget only changes which optimizer steps."""
    torch.manual_seed(seed)
    model = LeNet().to(memory_format=torch.channels_last)  # a third faster, nothing else
    example = images.train_images[:1]
    groups = sc.filters(model, example) + sc.neurons(model, example)
    steps_an_epoch = len(images.train_images) // BATCH
    steps = EPOCHS * steps_an_epoch
    optimizer: torch.optim.Optimizer = torch.optim.SGD(
        model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4
    )
    if budget is not None:
        optimizer = sc.Proximal(optimizer, groups, budget, steps=steps)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images.train_images))
        for batch in order[: steps_an_epoch * BATCH].split(BATCH):
            loss = F.cross_entropy(model(images.train_images[batch]), images.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return model.eval(), groups


@torch.no_grad()
def accuracy(model: nn.Module, images: data.Images) -> float:
    """Percent of the test images that are classified right."""
    guesses = torch.cat([model(batch).argmax(1) for batch in images.test_images.split(1000)])
    return 100 * (guesses == images.test_labels).float().mean().item()


def run(images: data.Images, name: str, seed: int) -> dict:
    """Train, shrink, count and test one network."""
    amounts = BUDGETS[name]
    budget = sc.Budget(**amounts) if amounts else None
    start = time.perf_counter()
    model, groups = train(images, seed, budget)
    seconds = time.perf_counter() - start
    example = images.train_images[:1]
    small = sc.shrink(model, groups)
    facts = sc.measure(small, example, latency=False)
    line = {
        "task": "lenet-mnist",
        "budget": name,
        "seed": seed,
        "accuracy": accuracy(small, images),
        "difference": difference(model, small, example),
        "widths": [int(groups.alive()[part.span].sum()) for part in groups.layers],
        "params": facts.params,
        "flops": facts.flops,
        "steps": EPOCHS * (len(images.train_images) // BATCH),
        "seconds": round(seconds, 1),
        **machine(),
    }
    if budget is not None:
        reached = budget.reached(small, example).lines[0]
        line |= {"measure": reached.measure, "asked": reached.asked, "reached": reached.reached}
    return line


def latency(images: data.Images) -> None:
    """Time dense and small networks of 10% FLOPs, in turn, in torch and ONNX Runtime."""
    torch.set_num_threads(1)
    dense, _ = train(images, 0, None)
    model, groups = train(images, 0, sc.Budget(flops=0.10))
    small = sc.shrink(model, groups)
    for network in (dense, small):
        network.to(memory_format=torch.contiguous_format)  # as users have them
    for batch in (1, 64):
        example = images.test_images[:batch]
        files = [
            deploy.export(net, example, runs.RESULTS.parent / f".{name}-{batch}.onnx")
            for name, net in (("dense", dense), ("small", small))
        ]
        rounds = [
            [
                measure_latency(dense, example).median,
                measure_latency(small, example).median,
                deploy.latency(files[0], example, threads=1).median,
                deploy.latency(files[1], example, threads=1).median,
            ]
            for _ in range(5)
        ]
        for file in files:
            file.unlink()
        times = torch.tensor(rounds).median(0).values.tolist()
        for runtime, full, less in (("torch", *times[:2]), ("onnxruntime", *times[2:])):
            line = {
                "task": "lenet-mnist-latency",
                "budget": "10% FLOPs",
                "runtime": runtime,
                "batch": batch,
                "threads": 1,
                "dense_seconds": full,
                "small_seconds": less,
                "ratio": less / full,
                **machine(),
            }
            runs.append(LATENCY, line)
            print(f"{runtime:12} batch {batch:<3} small/dense {less / full:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--latency", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = data.mnist()
    if options.latency:
        LATENCY.unlink(missing_ok=True)
        latency(images)
        return
    done = runs.finished(RESULT, ("budget", "seed"))
    for seed in options.seeds:
        for name in BUDGETS:
            if (name, seed) not in done:
                line = run(images, name, seed)
                runs.append(RESULT, line)
                print(
                    f"seed {seed}  {name:10}  {line['accuracy']:.2f}%  {line['widths']}  "
                    f"{line.get('reached', '')}/{line.get('asked', '')}  {line['seconds']:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
