"""Kill `secateur train` at random moments, resume it, and compare with the run that was let alone.

    python benchmarks/interruption.py           # 20 kills, about ten minutes on one core
    python benchmarks/interruption.py --kills 3

A LeNet on scikit-learn's digits, trained by the real command in a process of its own, gets SIGKILL
at a moment drawn from a fixed seed: in every other case within a random step, in the others within
the writing of a random checkpoint, as soon as its temporary file is there. Then the same command
with --resume runs to its end. The weights, the small network and the history must be those of the
run that was let alone, bit for bit. Writes one JSON line a kill to
benchmarks/results/interruption.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import data
import runs
from secateur.measurement import machine
from secateur.train import checkpoint

RESULT = runs.RESULTS / "interruption.jsonl"
HERE = Path(__file__).parent
SEED = 0
KILLS = 20
EVERY = 20  # steps from checkpoint to checkpoint
EPOCHS = 10
BATCH = 64
STEPS = EPOCHS * -(-data.DIGITS.counts[0] // BATCH)
WORDS = (
    "train --model interruption:LeNet --data interruption:digits --kind filters,neurons "
    f"--budget flops=25% --lr 0.05 --epochs {EPOCHS} --batch-size {BATCH} "
    f"--checkpoint-every {EVERY} --device cpu --threads 1"
)


class LeNet(nn.Module):
    """Two convolutions of 10 and 20 filters and 80 hidden units, with dropout, for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 3, padding=1)
        self.conv2 = nn.Conv2d(10, 20, 3)
        self.fc1 = nn.Linear(180, 80)
        self.fc2 = nn.Linear(80, 10)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.dropout(self.fc1(x.flatten(1)).relu()))


class Noisy(TensorDataset):
    """Images with fresh noise at every reading: augmentation that a resumed run must draw again."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image, label = super().__getitem__(index)
        return image + 0.1 * torch.randn_like(image), label


def digits(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """The loaders that the command trains and tests on."""
    found = data.digits()
    train = Noisy(found.train_images, found.train_labels)
    test = TensorDataset(found.test_images, found.test_labels)
    return DataLoader(train, batch_size, shuffle=True), DataLoader(test, 360)


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """The command, on its way."""
    return subprocess.Popen(
        [sys.executable, "-m", "secateur", *WORDS.split(), "--out", str(folder), *more],
        cwd=HERE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Let a run come to its end."""
    told = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"secateur train ended with {process.returncode}: {told}")


def outcome(folder: Path) -> dict[str, str]:
    """What must be the same, bit for bit: the trained weights, the small network, the history."""
    return {
        "weights": digest(checkpoint.read(folder / "checkpoint")["model"]),
        "small network": digest(load_file(folder / "small.safetensors")),
        "history": hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest(),
    }


def digest(tensors: dict[str, Tensor]) -> str:
    """One hash of all names, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()


def saved_step(folder: Path) -> int:
    """At which step the checkpoint goes on; 0 where there is none."""
    path = folder / "checkpoint"
    return checkpoint.read(path)["place"][2] if path.exists() else 0


def last_step(folder: Path) -> int:
    """The last step that was taken, by the lines written until then (the last may be cut)."""
    *lines, _ = (folder / "metrics.jsonl").read_text().split("\n")
    return max((json.loads(line)["step"] for line in lines), default=0)


def wait_for(moment: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until a moment in the life of a process."""
    while not moment():
        if process.poll() is not None:
            raise RuntimeError("the run was over before it could be killed; is the machine busy?")
        time.sleep(1e-4)


def kill(folder: Path, number: int) -> str:
    """Start the run and kill it at a moment drawn for this case; returns the moment in words."""
    draw = random.Random(f"{SEED}/{number}")
    process = start(folder)
    wait_for((folder / "metrics.jsonl").exists, process)
    if number % 2:
        step = EVERY * draw.randrange(1, STEPS // EVERY + 1)
        words = f"while the checkpoint of step {step} is written"
        wait_for(lambda: last_step(folder) >= step - 1, process)
        wait_for(lambda: any(folder.glob(".checkpoint*")), process)
    else:
        step, pause = draw.randrange(STEPS), draw.uniform(0, 0.03)
        words = f"{1e3 * pause:.0f} ms after step {step}"
        wait_for(lambda: last_step(folder) >= step, process)
        time.sleep(pause)
    process.kill()
    process.communicate()
    return words


def case(number: int, folder: Path, whole: dict[str, str]) -> dict:
    """One kill, one resumption, and whether they left a trace."""
    words = kill(folder, number)
    killed, saved = last_step(folder), saved_step(folder)
    inside = any(folder.glob(".checkpoint*"))
    finish(start(folder, *(["--resume"] if (folder / "checkpoint").exists() else [])))
    found = outcome(folder)
    return {
        "task": "interruption",
        "kill": number,
        "moment": words,
        "step": killed,
        "steps": STEPS,
        "resumed_at": saved,
        "lost": killed - saved,
        "interval": EVERY,
        "inside_a_write": inside,
        "same": {name: found[name] == value for name, value in whole.items()},
        **machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=KILLS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {number for (number,) in runs.finished(RESULT, ("kill",))}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        finish(start(place / "whole"))
        whole = outcome(place / "whole")
        for number in sorted(set(range(options.kills)) - done):
            line = case(number, place / str(number), whole)
            shutil.rmtree(place / str(number))
            runs.append(RESULT, line)
            same = "bit for bit" if all(line["same"].values()) else f"differs: {line['same']}"
            print(
                f"kill {number:2}  {line['moment']:44}  step {line['step']:3} of {STEPS}  "
                f"lost {line['lost']:2} of {EVERY}  {same}",
                flush=True,
            )


if __name__ == "__main__":
    main()
