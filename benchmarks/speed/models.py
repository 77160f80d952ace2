"""What `Proximal` adds to a training iteration of models that people train, in time and memory.

    python benchmarks/speed/models.py               # all, about eight minutes on one core
    python benchmarks/speed/models.py ResNet-18     # one of them, nothing is written
    python benchmarks/speed/models.py --table       # only write the table of docs/training.md

Trains a ResNet-18, a BERT-base and a GPT-2 small, random weights and inputs, for a few iterations
on one thread, and times the wrapped optimizer's step inside of `Proximal.step`. Needs transformers
(the extra "zoo") and Linux, for the peak of the process's memory. Writes
benchmarks/results/speed-models.json: medians of an iteration, of the wrapped optimizer's step and
of what Proximal adds to it, before the groups are chosen and after, in CPU seconds (others may be
using the machine); and the peak of the extra memory beside the bytes of the model's parameters.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import secateur as sc
from secateur.measurement.host import machine

SEED = 0
ROUNDS = 6  # before the freeze, and as many after it
WARM_UP = 3
RESULT = Path(__file__).parents[1] / "results" / "speed-models.json"
DOCS = Path(__file__).parents[2] / "docs" / "training.md"
BEGIN, END = "<!-- costs -->", "<!-- /costs -->"


@dataclass
class Setting:
    """A model with what it is trained on, its groups and its optimizer."""

    batch: str
    model: Callable[[], nn.Module]
    example: Callable[[], dict[str, Tensor]]
    groups: Callable[[nn.Module, Any], sc.Groups]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    options: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    if sys.argv[1:] == ["--table"]:
        write_table()
        return
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--memory"]:
        print(json.dumps([row["peak_memory"] for row in measure(sys.argv[2], rounds=2)]))
        return
    chosen = sys.argv[1:] or list(SETTINGS)
    rows = [row for name in chosen for row in measure_both(name)]
    result = {
        "command": "python benchmarks/speed/models.py",
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "seeds": [SEED],
        "unit": "CPU seconds on one thread, median; bytes",
        "rows": rows,
    }
    if chosen == list(SETTINGS):
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        write_table()


def write_table() -> None:
    """Put the results where docs/training.md has their place."""
    lines = [
        "| model | batch | optimizer | | its step | added | share of an iteration | memory |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for row in json.loads(RESULT.read_text())["rows"]:
        lines.append(
            f"| {row['model']} | {row['batch']} | {row['optimizer']} | {row['phase']} "
            f"| {1e3 * row['plain_step']:.1f} ms | {1e3 * row['added']:.1f} ms "
            f"| {row['share']:.1%} | {row['peak_memory'] / 2**20:.1f} of "
            f"{row['parameters'] / 2**20:.0f} MiB |"
        )
    before, _, rest = DOCS.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCS.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def measure_both(name: str) -> list[dict[str, Any]]:
    """Time and memory; memory in a process in which what is freed leaves the process at once."""
    rows = measure(name, ROUNDS)
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--memory", name]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    for row, peak in zip(rows, json.loads(found.stdout), strict=True):
        row["peak_memory"] = peak
        print(
            f"{name:18} {row['phase']:18} {1e3 * row['added']:7.2f} ms  {row['share']:6.2%} of an "
            f"iteration, {row['added'] / row['plain_step']:6.2%} of the step, "
            f"{peak / 2**20:6.1f} MiB",
            flush=True,
        )
    return rows


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Train for a few iterations, time them and watch the memory of the optimizer's steps."""
    setting = SETTINGS[name]
    torch.manual_seed(SEED)
    model, example = setting.model(), setting.example()
    groups = setting.groups(model, example)
    wrapped = setting.optimizer(model.parameters())
    inner = Timed(wrapped)
    steps = WARM_UP + 2 * rounds
    schedule = sc.Homotopy(steps, freeze=(WARM_UP + rounds) / steps, power=1)
    budget = sc.Budget(flops=0.5)
    optimizer = sc.Proximal(wrapped, groups, budget, schedule=schedule, **setting.options)
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for number in range(steps):
        start = time.process_time()
        optimizer.zero_grad()
        loss_of(model(**example)).backward()
        middle = time.process_time()
        before = memory("VmRSS", reset=True)
        step = time.process_time()
        optimizer.step()
        end = time.process_time()
        added = end - step - inner.seconds
        extra = max(inner.peak_before - before, memory("VmHWM") - inner.resident_after, 0)
        phase = "before the freeze" if not optimizer.frozen else "after the freeze"
        if number >= WARM_UP and number != WARM_UP + rounds - 1:  # not the freeze itself
            times = (middle - start + inner.seconds, inner.seconds, added, extra)
            found.setdefault(phase, []).append(times)
    rows = []
    for phase, lines in found.items():
        columns = zip(*lines, strict=True)
        whole, plain, added, extra = (statistics.median(column) for column in columns)
        rows.append(
            {
                "model": name,
                "batch": setting.batch,
                "optimizer": type(wrapped).__name__,
                "groups": len(groups),
                "phase": phase,
                "iteration": whole,
                "plain_step": plain,
                "added": added,
                "share": added / whole,
                "peak_memory": extra,
                "parameters": sum(p.numel() * p.element_size() for p in model.parameters()),
            }
        )
    return rows


class Timed:
    """Stands for the step of an optimizer: times it and keeps its memory apart from ours."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.seconds, self.step = 0.0, optimizer.step
        self.peak_before = self.resident_after = 0
        optimizer.step = self  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, closure: Any = None) -> Any:
        start = time.process_time()
        self.peak_before = memory("VmHWM")
        found = self.step()
        self.resident_after = memory("VmRSS", reset=True)
        self.seconds = time.process_time() - start  # reading the memory is not Proximal's time
        return found


def memory(which: str, *, reset: bool = False) -> int:
    """Bytes of this process, resident (VmRSS) or at their peak (VmHWM) since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


def loss_of(output: Any) -> Tensor:
    """Some loss that needs every output."""
    found = output.logits if hasattr(output, "logits") else output[0]
    return found.float().square().mean()


def resnet18() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=1000,
    )
    return transformers.ResNetForImageClassification(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(num_labels=2, attn_implementation="eager")
    return transformers.BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(attn_implementation="eager", use_cache=False)
    return transformers.GPT2LMHeadModel(config)


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1000, (4, 64))}


def heads_and_neurons(model: nn.Module, example: Any) -> sc.Groups:
    return sc.heads(model, example) + sc.neurons(model, example)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-5)


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


IMAGES = "32 images of 224x224"
TOKENS = "4 sequences of 64 tokens"
SETTINGS = {
    "ResNet-18": Setting(
        IMAGES,
        resnet18,
        lambda: {"pixel_values": torch.randn(32, 3, 224, 224)},
        sc.filters,
        momentum,
    ),
    "BERT-base": Setting(TOKENS, bert, tokens, heads_and_neurons, adamw),
    "BERT-base, geometry": Setting(
        TOKENS, bert, tokens, heads_and_neurons, adamw, {"geometry": "optimizer"}
    ),
    "GPT-2 small": Setting(TOKENS, gpt2, tokens, heads_and_neurons, adamw),
}


if __name__ == "__main__":
    main()
