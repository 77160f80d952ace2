"""The demo: a small residual network on handwritten digits, dense and at a quarter of its FLOPs.

Nothing flows in but a folder; files, a report and a `Run` flow out.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.report import Check, Run
from secateur.train.data import Data
from secateur.train.finishing import finish
from secateur.train.loop import Loop
from secateur.utils.extras import require
from secateur.utils.rng import seed_all

EPOCHS, BATCH, RATE, SEED = 25, 64, 0.05, 0
FLOPS = 0.25  # of the dense network's
# The fresh process: the full-size class and the file, nothing else.
RELOAD = """
import sys, torch, secateur
from safetensors.torch import load_file, save_file
from secateur.commands.digits import DigitNet
torch.set_num_threads(int(sys.argv[3]))
small = secateur.load(sys.argv[1], model=DigitNet()).eval()
with torch.no_grad():
    outputs = small(load_file(sys.argv[2])["images"])
save_file({"outputs": outputs}, sys.argv[2])
"""


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.around = nn.Sequential()
        if stride != 1 or inside != outside:
            self.around = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(inner + self.around(x))


class DigitNet(nn.Module):
    """A residual network for 8x8 images of one channel: (rows, 1, 8, 8) -> (rows, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(24, 24, 1), Block(24, 48, 2), Block(48, 48, 1))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def digits(batch_size: int = BATCH) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Scikit-learn's 1,797 digits, split by a fixed seed.

    Returns:
        Loaders of 1,097 to train on, 200 to watch training with and 500 for the final test.

    Raises:
        ImportError: scikit-learn is missing.
    """
    found = require("sklearn.datasets", extra="demo").load_digits()
    images = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(found.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, watch, test = (
        TensorDataset(images[part], labels[part]) for part in order.split([1097, 200, 500])
    )
    return (
        DataLoader(train, batch_size, shuffle=True),
        DataLoader(watch, 200),
        DataLoader(test, 500),
    )


def demo(folder: Path, watch: Callable[[str, int, int, str], None] = lambda *_: None) -> Run:
    """Train dense and to a quarter of the FLOPs, verify, measure, save, export.

    Args:
        folder: where small.safetensors, small.onnx and run.json go.
        watch: called with (what is being done, done, of how much, a word on how it goes).

    Returns:
        The facts, for tables and the report.
    """
    train, watched, tested = digits()
    torch.set_num_threads(1)  # the network is too small for more
    data = Data(train, watched)
    dense = _train(data, None, lambda *args: watch("training dense", *args))[0]
    model, groups, budget, loop = _train(
        data, FLOPS, lambda *args: watch("training to 25% of the FLOPs", *args)
    )
    assert groups is not None and budget is not None
    small, run = finish(
        model,
        groups,
        budget,
        Data(train, tested),
        folder,
        title="A digit classifier at a quarter of its FLOPs",
        dense=dense,
        history=tuple(loop.history),
        settings={
            "network": "residual, 7 convolutions, BatchNorm (secateur.commands.digits.DigitNet)",
            "data": "scikit-learn digits, 8x8: 1,097 to train on, 200 held out for the curves, "
            "500 for the final test",
            "training": f"SGD, momentum 0.9, learning rate {RATE} to 0 by a cosine, "
            f"{EPOCHS} epochs of batches of {BATCH}, seed {SEED}; the dense network alike",
        },
        watch=lambda words: watch(words, 0, 0, ""),
    )
    watch("loading in a fresh process", 0, 0, "")
    run = replace(run, checks=(*run.checks, _reload(small, folder / "small.safetensors", tested)))
    run.write(folder / "run.json")
    return run


def _train(
    data: Data, flops: float | None, watch: Callable[[int, int, str], None]
) -> tuple[nn.Module, secateur.Groups | None, secateur.Budget | None, Loop]:
    """Train one network, to a share of its FLOPs or (None) dense: the same but for the budget."""
    seed_all(SEED, -1)
    model = DigitNet()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
    steps = EPOCHS * len(data.train_loader)
    groups = budget = None
    if flops is not None:
        groups = secateur.filters(model, data.example())
        budget = secateur.Budget(flops=flops)
        optimizer = secateur.Proximal(optimizer, groups, budget, steps=steps)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loop = Loop(model, optimizer, data, epochs=EPOCHS, scheduler=scheduler, seed=SEED, watch=watch)
    loop.run()
    return model, groups, budget, loop


@torch.no_grad()
def _reload(small: nn.Module, path: Path, loader: DataLoader) -> Check:
    """Whether a fresh process rebuilds the same network from the file."""
    images = next(iter(loader))[0]
    with tempfile.TemporaryDirectory() as temporary:
        exchange = str(Path(temporary) / "exchange.safetensors")
        save_file({"images": images}, exchange)
        command = [sys.executable, "-c", RELOAD, str(path), exchange, str(torch.get_num_threads())]
        subprocess.run(command, check=True)
        found = load_file(exchange)["outputs"]
    apart = float((small.eval()(images) - found).abs().max())
    what = "a fresh process loads the same network from small.safetensors"
    return Check(what, apart == 0, "bit for bit" if apart == 0 else f"outputs {apart:.0e} apart")
