"""What to measure groups by after AdamW's step: curvature, the optimizer's metric, plain norms.

    python benchmarks/metric.py                 # all runs, about 15 minutes on one core
    python benchmarks/metric.py --seeds 0       # one seed; finished runs are skipped
    python benchmarks/metric.py --table         # only write the table of docs/training.md

Trains a LeNet 20-50-500 with AdamW on the first 20,000 training images of MNIST and measures its
accuracy on the last 10,000 of them, after the last epoch: the test images are not looked at. Writes
one JSON line a run to benchmarks/results/metric.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import data
import runs
import secateur as sc
from lenet_mnist import BATCH, EPOCHS, LeNet
from secateur.report import machine

RESULT = runs.RESULTS / "metric.jsonl"
DOCS = Path(__file__).parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- metric -->", "<!-- /metric -->"

TRAINING = 20_000  # images; the last 10,000 of the training set are the validation set
VALIDATION = 10_000
LEARNING_RATE = 1e-3  # AdamW, cosine to 0, weight decay 0.01
SEEDS = (0, 1, 2)
BUDGETS: dict[str, dict] = {
    "60 of 570 groups": {"groups": 60},
    "30 of 570 groups": {"groups": 30},
    "10% of the FLOPs": {"flops": 0.10},
}
WAYS: dict[str, dict] = {
    "defaults": {},
    "every=10": {"every": 10},
    'metric="optimizer"': {"metric": "optimizer"},
    "weights=1.0": {"weights": 1.0},
}


def run(images: data.Images, budget: str, way: str, seed: int) -> dict:
    """Train one network and say how many of the validation images it gets right."""
    torch.manual_seed(seed)
    model = LeNet().to(memory_format=torch.channels_last)
    inputs, labels = images.train_images[:TRAINING], images.train_labels[:TRAINING]
    groups = sc.filters(model, inputs[:1]) + sc.neurons(model, inputs[:1])
    steps = EPOCHS * (TRAINING // BATCH)
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    if budget != "dense":
        options = {"steps": steps, **WAYS[way]}
        optimizer = sc.Proximal(optimizer, groups, sc.Budget(**BUDGETS[budget]), **options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = time.perf_counter()
    for _ in range(EPOCHS):
        order = torch.randperm(TRAINING)
        for batch in order[: TRAINING // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
            scheduler.step()
    alive = groups.alive()
    return {
        "task": "metric",
        "budget": budget,
        "way": way,
        "seed": seed,
        "accuracy": accuracy(model, images),
        "widths": [int(alive[part.start : part.stop].sum()) for part in groups.layers],
        "steps": steps,
        "seconds": round(time.perf_counter() - start, 1),
        **machine(),
    }


@torch.no_grad()
def accuracy(model: LeNet, images: data.Images) -> float:
    """Percent of the validation images."""
    inputs, labels = images.train_images[-VALIDATION:], images.train_labels[-VALIDATION:]
    guesses = torch.cat([model(batch).argmax(1) for batch in inputs.split(1000)])
    return 100 * (guesses == labels).float().mean().item()


def table() -> str:
    """Mean and standard deviation over the seeds, in Markdown."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in runs.read(RESULT):
        found.setdefault((line["budget"], line["way"]), []).append(line["accuracy"])
    rows = [f"| kept | {' | '.join(WAYS)} |", f"|---|{'---|' * len(WAYS)}"]
    for budget in BUDGETS:
        cells = [_cell(found.get((budget, way), [])) for way in WAYS]
        rows.append(f"| {budget} | {' | '.join(cells)} |")
    dense = _cell(found.get(("dense", ""), []))
    return "\n".join([*rows, "", f"The dense network reaches {dense}."])


def _cell(values: list[float]) -> str:
    if len(values) < 2:
        return "not run"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def write_table() -> None:
    """Put the table where docs/training.md has its place."""
    before, _, rest = DOCS.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCS.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        torch.set_num_threads(1)
        images = data.mnist()
        done = runs.finished(RESULT, ("budget", "way", "seed"))
        pairs = [("dense", ""), *((b, w) for w in WAYS for b in BUDGETS)]
        for seed in options.seeds:
            for budget, way in pairs:
                if (budget, way, seed) not in done:
                    line = run(images, budget, way, seed)
                    runs.append(RESULT, line)
                    print(
                        f"seed {seed}  {budget:16}  {way:19}  {line['accuracy']:.2f}%  "
                        f"{line['widths']}  {line['seconds']:.0f} s",
                        flush=True,
                    )
    write_table()


if __name__ == "__main__":
    main()
