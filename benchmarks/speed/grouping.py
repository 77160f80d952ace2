"""How long tracing and grouping take for networks of real size, on one thread.

    PYTHONPATH=benchmarks python benchmarks/speed/grouping.py

Writes benchmarks/results/speed-grouping.json: seconds for a ResNet-50 on an image of 224 x 224 and
for an encoder of the size of BERT-base (12 layers of 768, 110 million parameters) on 32 words.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import runs
import secateur as sc
from secateur.measurement import machine
from secateur.tracing.tracer import trace

RESULT = runs.RESULTS / "speed-grouping.json"


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(num_labels=1000))


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig())


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], tuple[str, ...]]] = {
    "ResNet-50": (
        resnet,
        lambda: torch.randn(1, 3, 224, 224),
        ("filters",),
    ),
    "BERT-base": (
        bert,
        lambda: {"input_ids": torch.randint(4, 30000, (1, 32))},
        ("neurons", "heads"),
    ),
}


def main() -> None:
    torch.set_num_threads(1)
    lines = []
    for name, (build, example, kinds) in CASES.items():
        torch.manual_seed(0)
        model, inputs = build().eval(), example()
        start = time.perf_counter()
        trace(model, inputs)
        seconds = {"trace": round(time.perf_counter() - start, 2)}
        for kind in kinds:
            start = time.perf_counter()
            groups = getattr(sc, kind)(model, inputs)
            seconds[kind] = round(time.perf_counter() - start, 2)
            print(name, kind, len(groups), seconds, flush=True)
        params = sum(p.numel() for p in model.parameters())
        lines.append({"model": name, "params": params, "seconds": seconds})
    command = "PYTHONPATH=benchmarks python benchmarks/speed/grouping.py"
    RESULT.write_text(json.dumps({"runs": lines, **machine(), "command": command}, indent=1) + "\n")


if __name__ == "__main__":
    main()
