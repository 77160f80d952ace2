"""Accuracy at a budget on a GPU: known networks on CIFAR-10 and Fashion-MNIST, whole runs.

    PYTHONPATH=benchmarks python -m gpu.accuracy                  # nine minutes; start it again
    PYTHONPATH=benchmarks python -m gpu.accuracy --table paper    # the paper's own table
    PYTHONPATH=benchmarks python -m gpu.accuracy --smoke          # a few steps, also on a CPU

The tasks, runs and methods are those of `accuracy`; here in bfloat16, channels last, with the data
and their augmentation on the device. When the minutes are over, the run in progress is kept and the
next start goes on with it; finished ones are skipped. One line a run in benchmarks/results/
gpu-accuracy-EPOCHS.jsonl.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import data
import runs
import secateur as sc
from accuracy.__main__ import Suite
from accuracy.images import flip_and_crop, percent, sgd, split
from accuracy.method import METHODS, Knob, Method
from accuracy.penalties import PENALTIES
from accuracy.run import Collapsed, Run, Step
from accuracy.table import compared
from accuracy.task import TASKS, Batch, Split, Task
from zoo.mobile import classifier, unit
from zoo.residual import Basic, ResNet

# -- the networks, at the sizes of the publications; a smaller width only to try the script out ----


def vgg16_bn(width: int = 64) -> nn.Module:
    """13 convolutions and one linear layer, as is usual on images of 32 pixels."""
    layers: list[nn.Module] = []
    channels = 3
    for repeats, factor in ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)):
        for _ in range(repeats):
            outputs = width * factor
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
            layers.append(nn.ReLU())
            channels = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


def resnet18(width: int = 64) -> nn.Module:
    """Four stages of two blocks."""
    return ResNet(Basic, 1, (2, 2, 2, 2), width)


def resnet56(width: int = 64) -> nn.Module:
    """Three stages of nine blocks, a quarter as wide."""
    return ResNet(Basic, 1, (9, 9, 9), width // 4)


def mobilenet_v1(width: int = 64) -> nn.Module:
    """13 pairs of a depthwise and a pointwise convolution, at full resolution in the first ones."""
    channels = width // 2
    layers: list[nn.Module] = [unit(3, channels, 3, 1, activation=nn.ReLU)]
    pairs = [(1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), *[(8, 1)] * 5, (16, 2), (16, 1)]
    for factor, stride in pairs:
        layers.append(unit(channels, channels, 3, stride, channels, nn.ReLU))
        layers.append(unit(channels, width * factor, activation=nn.ReLU))
        channels = width * factor
    return classifier(layers, channels)


# of published results, where one is named: shares of FLOPs and parameters kept
BUDGETS: dict[Callable[..., nn.Module], dict[str, dict[str, float]]] = {
    vgg16_bn: {"26.6% FLOPs, 5% params": {"flops": 0.266, "params": 0.05}},  # OTOv2
    resnet18: {"20.3% FLOPs, 8.8% params": {"flops": 0.203, "params": 0.088}},  # OTOv2
    resnet56: {"38.9% FLOPs": {"flops": 1 / 2.57}},  # DepGraph
    mobilenet_v1: {"25% FLOPs": {"flops": 0.25}},
}

# -- the tasks -------------------------------------------------------------------------------------


def cifar10() -> Split:
    """45,000 images to train on."""
    return split(data.cifar10(), 45_000, 5_000)


def fashion() -> Split:
    """55,000 images to train on, with a border of black and three equal colours."""
    parts = split(data.fashion_mnist(), 55_000, 5_000).parts
    black = -data.FASHION_MNIST.mean[0] / data.FASHION_MNIST.std[0]
    return Split(*((F.pad(x, (2,) * 4, value=black).expand(-1, 3, -1, -1), y) for x, y in parts))


def digits() -> Split:
    """A few rows of 32 x 32, to try the script out."""
    given = data.digits()
    pixels = F.interpolate(given.train_images, size=(32, 32)).expand(-1, 3, -1, -1)
    rows = [slice(48), slice(48, 64), slice(64, 80)]
    return Split(*((pixels[part], given.train_labels[part]) for part in rows))


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """In bfloat16 where that is safe."""
    images = batch[0].contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16):
        return model(images).float()


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(logits(model, batch), batch[1])


def score(model: nn.Module, batch: Batch) -> float:
    """Percent of the images."""
    return percent(logits(model, batch), batch[1])


def register(epochs: int, smoke: bool) -> list[str]:
    """Make the tasks known; returns their names."""
    sources = {"digits": digits} if smoke else {"cifar10": cifar10, "fashion-mnist": fashion}
    names = []
    for network, budgets in BUDGETS.items():
        for source, load in sources.items():
            names.append(f"{network.__name__.replace('_', '-')}-{source}")
            make = partial(network, 8 if smoke else 64)
            TASKS[names[-1]] = partial(_task, names[-1], load, make, budgets, epochs, smoke)
    return names


def _task(name, load, make, budgets, epochs: int, smoke: bool) -> Task:
    return Task(
        name=name,
        load=load,
        network=lambda: make().to(memory_format=torch.channels_last),
        group=sc.filters,
        optimizer=sgd(0.1),
        loss=loss,
        score=score,
        logits=logits,
        measure="accuracy %",
        budgets={"a half": {"flops": 0.5}} if smoke else budgets,
        study="a half" if smoke else next(iter(budgets)),
        epochs=epochs,
        batch=16 if smoke else 128,
        warm_up=0.0 if smoke else 5 / epochs,
        augment=flip_and_crop,
    )


# -- the paper's table: no budget, what a penalty leaves at the end of the run ---------------------


def left(run: Run, penalty: str, lam: float) -> nn.Module:
    """Trained to the end by a penalty alone, then without its zero groups."""
    optimizer, step = PENALTIES[penalty](run, lam, 1.0)
    run.train(optimizer, step=step)
    alive = run.groups.alive()
    if not all(alive[part.span].any() for part in run.groups.layers):
        raise Collapsed
    run.amounts = {}  # nothing was to be met
    return run.small()


LAMBDAS = {  # the lasso left all of VGG16's groups at 0.001
    "Prox-SG": (3e-3, 1e-2, 3e-2),
    "Prox-SVRG": (3e-3, 1e-2, 3e-2),
    "HSPG": (3e-3, 1e-2, 3e-2),
    "WGSEF": (1e-2, 3e-2, 1e-1),
}
PAPER = {f"paper: {name}": name for name in LAMBDAS}
TABLES = {
    "budgets": ["dense", "secateur", "train, prune, fine-tune", "Torch-Pruning", "HSPG"],
    "paper": list(PAPER),
}

# -- what came out ---------------------------------------------------------------------------------


def known_on_gpu(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of methods that end at a budget, their tasks made known to what makes tables."""
    register(epochs=1, smoke=False)
    return [line for line in lines if line["method"] not in PAPER]


def budget_tables(lines: list[dict[str, Any]]) -> str:
    """As on the CPU: one table a task, a row a method."""
    return compared(known_on_gpu(lines))


def penalty_table(lines: list[dict[str, Any]]) -> str:
    """One row a task, method and lambda: the share of the groups that are zero, and the score."""
    rows = ["| | | lambda | groups that are zero | accuracy % |", "|---|---|---:|---:|---:|"]
    rows += [
        f"| {line['task']} | {line['method'].removeprefix('paper: ')} "
        f"| {json.loads(line['knob'])['lam']} | {1 - line['groups'] / line['all_groups']:.0%} "
        f"| {line['score']:.2f} |"
        for line in sorted(lines, key=lambda line: (line["task"], line["method"], line["knob"]))
        if line["method"] in PAPER
    ]
    return "\n".join(rows)


# -- runs that can be interrupted ------------------------------------------------------------------


@dataclass
class Clock:
    """When to stop, and where a run in progress is kept."""

    until: float
    folder: Path
    every: int = 100  # steps between looks at the clock


class LongRun(Run):
    """A run whose `train` goes on where an earlier process stopped: each span is a file."""

    def __init__(self, clock: Clock, *place: Any, **options: Any) -> None:
        super().__init__(*place, **options)
        self.clock = clock

    def train(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        *,
        first: int = 0,
        last: int | None = None,
        step: Step | None = None,
        after: Callable[[int], None] = lambda step: None,
    ) -> None:
        """As in `Run`; raises TimeoutError when the time is up, with everything kept."""
        last = self.steps if last is None else last
        file = self.clock.folder / f"{first}-{last}.pt"
        model = model or self.model
        if file.exists():
            first = self._resume(file, optimizer, model)

        def look(number: int) -> None:
            after(number)
            if number % self.clock.every == 0 and time.monotonic() > self.clock.until:
                self._keep(file, optimizer, model, number + 1)
                raise TimeoutError("the time is up; the run is kept; start again to go on")

        super().train(optimizer, model, first=first, last=last, step=step, after=look)
        self._keep(file, optimizer, model, last)

    @staticmethod
    def _resume(file: Path, optimizer: Optimizer, model: nn.Module) -> int:
        rates = [group["lr"] for group in optimizer.param_groups]
        kept = torch.load(file, weights_only=False)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # the schedule's factor is applied anew
        torch.set_rng_state(kept["random"])
        return kept["next"]

    @staticmethod
    def _keep(file: Path, optimizer: Optimizer, model: nn.Module, following: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        kept |= {"random": torch.get_rng_state(), "next": following}
        torch.save(kept, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Also how many groups are left: the paper's group sparsity is the rest of them."""
        left = {"groups": self._units(network), "all_groups": len(self.groups)}
        return super().facts(network) | left


class LongSuite(Suite):
    """Makes runs on a device that can be interrupted."""

    device = "cpu"

    def make(self, task: str, name: str, budget: str, seed: int, knob: Knob) -> Run:
        """A run with a folder of its own for what is unfinished."""
        words = [task, name, budget, str(seed), json.dumps(knob)]
        key = "".join(c if c.isalnum() else "-" for c in "_".join(words))
        clock = Clock(self.until, self.path.with_suffix("") / key)
        return LongRun(clock, task, budget, seed, device=self.device, begun=self.begun)


def main() -> None:
    for name, penalty in PAPER.items():
        knobs = [{"lam": lam} for lam in LAMBDAS[penalty]]
        METHODS[name] = Method(name, partial(left, penalty=penalty), knobs)
    parser = argparse.ArgumentParser(
        prog="gpu.accuracy", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", help="by default all")
    parser.add_argument("--table", choices=TABLES, default="budgets")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="instead of the table's")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--smoke", action="store_true", help="tiny, writes nothing without --out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        parser.error("this benchmark is for a GPU, and there is none; --smoke runs without one")
    epochs = 1 if options.smoke else options.epochs
    names = register(epochs, options.smoke)
    with tempfile.TemporaryDirectory() as nowhere:
        usual = Path(nowhere) if options.smoke else runs.RESULTS
        suite = LongSuite(options.out or usual / f"gpu-accuracy-{epochs}.jsonl", options.minutes)
        suite.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            for task in options.tasks or names:
                for seed in options.seeds:
                    for name in options.methods or TABLES[options.table]:
                        one_by_one(suite, task, name, seed, options)
        except TimeoutError as error:
            print(error)


def one_by_one(suite: Suite, task: str, name: str, seed: int, options: Any) -> None:
    """All budgets of a method; in the paper's table all its lambdas."""
    for budget in TASKS[task]().budgets:
        if name == "dense":
            suite.run(task, name, "dense", seed, {})
        elif options.table == "paper":
            for knob in METHODS[name].knobs:
                suite.run(task, name, budget, seed, knob)
        else:
            suite.run(task, name, budget, seed, suite.knob(task, METHODS[name], budget))


if __name__ == "__main__":
    main()
