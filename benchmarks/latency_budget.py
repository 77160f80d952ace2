"""Is a latency that was asked for the latency that is reached? Five networks, two runtimes.

    PYTHONPATH=benchmarks python benchmarks/latency_budget.py

Each network is trained for a few steps to a share of its latency, shrunk, and timed in three fresh
processes, in turns with the full network: what slows the machine slows both, so their ratio stays
true on a machine that is shared. Writes benchmarks/results/latency-budget.json: for each network
the share asked, measured / asked in every process and its median (good: 0.85 to 1.00), and how far
the table was off on networks that it didn't know.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import runs
import secateur as sc
from secateur.budget import LatencyTarget
from secateur.costs.table_cache import table_for
from secateur.measurement import machine, time_together
from secateur.runtimes import prepare

RESULT = runs.RESULTS / "latency-budget.json"
PROCESSES = 3
STEPS = 10


def lenet() -> nn.Module:
    return nn.Sequential(
        *[nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
        *[nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)],
    )


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128],
            depths=[2, 2, 2],
            layer_type="basic",
            num_labels=10,
        )
    )


def mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(depth_multiplier=1.0, image_size=64, num_labels=10)
    return MobileNetV2ForImageClassification(config)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=192,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=768,
            image_size=64,
            patch_size=8,
            num_labels=10,
        )
    )


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=1024,
            vocab_size=1000,
            num_labels=10,
        )
    )


def images(*shape: int) -> Callable[[], Any]:
    return lambda: torch.randn(1, *shape)


def pixels(*shape: int) -> Callable[[], Any]:
    return lambda: {"pixel_values": torch.randn(1, *shape)}


@dataclass(frozen=True)
class Case:
    """A network, its input, what lives and dies together, and what is asked."""

    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    kinds: tuple[str, ...]
    share: float
    multiple_of: int = 1  # in ONNX Runtime, whose convolutions want multiples of 16


CASES = {
    "LeNet": Case(lenet, images(1, 28, 28), ("filters", "neurons"), 0.6),
    "ResNet": Case(resnet, pixels(3, 64, 64), ("filters",), 0.5, 16),
    "MobileNetV2": Case(mobilenet, pixels(3, 64, 64), ("filters",), 0.6, 16),
    "ViT": Case(vit, pixels(3, 64, 64), ("neurons", "heads"), 0.6),
    "BERT": Case(
        bert, lambda: {"input_ids": torch.randint(4, 900, (1, 64))}, ("neurons", "heads"), 0.6
    ),
}
RUNTIMES = ("torch", "onnxruntime")
TRIES = 20  # while the machine is too busy to be measured


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or list(CASES)
    lines = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    for name in wanted:
        for runtime in RUNTIMES:
            line = patiently(name, runtime)
            print(json.dumps(line), flush=True)
            lines = [x for x in lines if (x["network"], x["runtime"]) != (name, runtime)] + [line]
            facts = {
                "runs": lines,
                **machine(),
                "load": "shared with other work; ratios of runs in turns with the full network",
                "command": "PYTHONPATH=benchmarks python benchmarks/latency_budget.py",
            }
            RESULT.write_text(json.dumps(facts, indent=1) + "\n")


def patiently(name: str, runtime: str) -> dict[str, Any]:
    """Run a case as soon as the machine is quiet enough for a table to be made."""
    left = TRIES
    while True:
        try:
            return run(name, runtime)
        except RuntimeError as error:
            left -= 1
            if "too busy" not in str(error) or not left:
                raise
        time.sleep(15)


def run(name: str, runtime: str) -> dict[str, Any]:
    """Train, shrink, and time in fresh processes."""
    case = CASES[name]
    torch.manual_seed(0)
    model, example = case.build(), case.example()
    groups = sum(
        (getattr(sc, kind)(model, example) for kind in case.kinds[1:]),
        getattr(sc, case.kinds[0])(model, example),
    )
    multiple = case.multiple_of if runtime == "onnxruntime" else 1
    budget = sc.Budget(latency=LatencyTarget(case.share, runtime=runtime), multiple_of=multiple)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        optimizer = sc.Proximal(
            torch.optim.SGD(model.parameters(), lr=0.001), groups, budget, steps=STEPS
        )
        profiled = time.perf_counter() - start
        for _ in range(STEPS):
            optimizer.zero_grad()
            output = model(**example) if isinstance(example, dict) else model(example)
            output = getattr(output, "logits", output)
            output.float().square().mean().backward()
            optimizer.step()
        small = sc.shrink(model, groups)
    table = table_for(groups, runtime=runtime, threads=None, multiple_of=multiple)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "networks.pt"
        torch.save((case.build().eval(), small.eval(), example), path)
        shares = [in_a_process(path, runtime) for _ in range(PROCESSES)]
    return {
        "network": name,
        "runtime": runtime,
        "multiple_of": multiple,
        "asked": case.share,
        "full_ms": round(1e3 * table.full, 4),
        "measured_over_asked": [round(share / case.share, 4) for share in shares],
        "median": round(statistics.median(shares) / case.share, 4),
        "table_error": round(table.error, 4),
        "profiling_s": round(profiled, 1),
        "busy": sum("busy" in str(warning.message) for warning in caught),
        "load": round(os.getloadavg()[0], 1),
    }


def in_a_process(path: Path, runtime: str) -> float:
    """The small network's latency as a share of the full one's, in a process of its own."""
    words = [sys.executable, __file__, "--time", str(path), runtime]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def measure(path: str, runtime: str) -> None:
    """In the fresh process: print small / full."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    full, small, example = torch.load(path, weights_only=False)
    networks = [prepare(network, example, runtime, threads=1) for network in (full, small)]
    large, little = time_together(networks, rounds=30)
    print(little.median / large.median)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--time"]:
        measure(*sys.argv[2:4])
    else:
        main()
