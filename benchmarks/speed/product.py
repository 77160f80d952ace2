"""What the user gets: how much faster the small network is than the dense one.

    PYTHONPATH=benchmarks python benchmarks/speed/product.py                # about an hour
    PYTHONPATH=benchmarks python benchmarks/speed/product.py --networks LeNet

Five networks at 50, 25 and 10% of the FLOPs, with widths as they come out and in multiples of 8, in
torch, torch.compile and ONNX Runtime, on one and two threads, for one row and for 32. The weights
are random and which groups go is decided by their norms: how long a network takes depends on how
many are left, not on which. All networks of one setting are timed in turns, so what slows the
machine slows all of them. Writes one JSON line a network and setting to
benchmarks/results/speed-product.jsonl; finished settings are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import runs
import secateur as sc
from accuracy.images import filters_and_neurons
from accuracy.text import heads_and_neurons
from lenet_mnist import LeNet
from secateur.measurement import machine, time_together
from secateur.report.charts import Series, curves
from secateur.runtimes import prepare, using_threads

RESULT = runs.RESULTS / "speed-product.jsonl"
RUNTIMES = ("torch", "torch.compile", "onnxruntime")
SHARES = (0.5, 0.25, 0.1)
MULTIPLES = (1, 8)
BATCHES = (1, 32)
THREADS = (1, 2)
KEYS = ("network", "runtime", "threads", "batch")


class Network(NamedTuple):
    """A network, inputs of so many rows, and its groups."""

    make: Callable[[], nn.Module]
    rows: Callable[[int], Any]
    group: Callable[[nn.Module, Any], sc.Groups]


def images(channels: int, size: int) -> Callable[[int], Tensor]:
    return lambda rows: torch.randn(rows, channels, size, size)


def tokens(length: int) -> Callable[[int], Tensor]:
    return lambda rows: torch.randint(0, 1000, (rows, length))


def resnet18() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
    return ResNetForImageClassification(ResNetConfig(layer_type="basic", num_labels=1000, **sizes))


def mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return MobileNetV2ForImageClassification(MobileNetV2Config(image_size=128, num_labels=1000))


def vit_tiny() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3}
    return ViTForImageClassification(
        ViTConfig(**sizes, intermediate_size=768, image_size=128, num_labels=1000)
    )


def bert_small() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
    return BertForSequenceClassification(BertConfig(**sizes, intermediate_size=2048))


NETWORKS = {
    "LeNet": Network(LeNet, images(1, 28), filters_and_neurons),
    "ResNet-18": Network(resnet18, images(3, 128), sc.filters),
    "MobileNetV2": Network(mobilenet, images(3, 128), sc.filters),
    "ViT-tiny": Network(vit_tiny, images(3, 128), heads_and_neurons),
    "BERT-small": Network(bert_small, tokens(64), heads_and_neurons),
}


class Size(NamedTuple):
    """What was asked of a small network, and what came out; the dense one has share 1."""

    share: float
    multiple: int
    flops: int
    model: nn.Module


def sizes(network: Network) -> list[Size]:
    """The dense network, then the small ones; those that can't be so small are left out."""
    example = network.rows(1)
    dense = made(network)
    found = [Size(1.0, 1, sc.measure(dense, example, latency=False).flops, dense)]
    for multiple, share in itertools.product(MULTIPLES, SHARES):
        model = made(network)
        groups = network.group(model, example)
        try:
            small = cut(model, groups, sc.Budget(flops=share, multiple_of=multiple))
        except ValueError as error:
            print(f"  {share:.0%}, multiples of {multiple}: {error}")
            continue
        flops = sc.measure(small, example, latency=False).flops
        found.append(Size(share, multiple, flops, small))
    return found


def made(network: Network) -> nn.Module:
    """The dense network, always with the same weights."""
    torch.manual_seed(0)
    return network.make().eval()


def cut(model: nn.Module, groups: sc.Groups, budget: sc.Budget) -> nn.Module:
    """The network that a freeze would choose now, shrunk."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    sc.Proximal(sgd, groups, budget, steps=1, importance="layer").freeze_()
    return sc.shrink(model, groups)


def timed(networks: list[Size], example: Any, runtime: str, threads: int) -> list[float]:
    """Seconds of one forward, in turns."""
    torch._dynamo.reset()  # compiled code is made for a number of threads
    with using_threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the machine is busy: medians, in turns
        calls = [prepare(size.model, example, runtime, threads=threads) for size in networks]
        return [time.median for time in time_together(calls, rounds=7, seconds=0.02, patience=2)]


def table(lines: list[dict[str, Any]], threads: int = 1) -> str:
    """One table a number of rows: small over dense, with widths as they come and in eights."""
    found = {
        (*(line[key] for key in KEYS), line["share"], line["multiple"]): line
        for line in lines
        if line["threads"] == threads and line["share"] < 1
    }
    runtimes = [r for r in RUNTIMES if any(key[1] == r for key in found)]
    parts = []
    for batch in BATCHES:
        rows_at_once = "one row" if batch == 1 else f"{batch} rows"
        parts += [
            f"Small over dense, {rows_at_once} at once, one thread; widths as they come, then in "
            "multiples of 8.",
            "",
            f"| | FLOPs left | {' | '.join(runtimes)} |",
            "|---|---:|" + "---:|" * len(runtimes),
        ]
        for name, share in itertools.product(NETWORKS, SHARES):
            rows = [
                [found.get((name, runtime, threads, batch, share, m)) for m in MULTIPLES]
                for runtime in runtimes
            ]
            if not any(map(any, rows)):
                continue
            left = " \\| ".join(_share(next((r[i] for r in rows if r[i]), None)) for i in (0, 1))
            cells = [" \\| ".join(_ratio(line) for line in row) for row in rows]
            parts.append(f"| {name}, {share:.0%} | {left} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join([*parts, _on_two(lines)])


def figure(lines: list[dict[str, Any]]) -> str:
    """The median over the networks, one row and 32 rows, against the FLOPs left: one thread."""
    series = []
    for runtime in RUNTIMES:
        points = []
        for share in (*sorted(SHARES), 1.0):
            mine = [
                line
                for line in lines
                if (line["runtime"], line["threads"], line["share"], line["multiple"])
                == (runtime, 1, share, 1)
            ]
            flops, ratios = ([line[key] for line in mine] for key in ("flops", "ratio"))
            points.append((100 * statistics.median(flops), 100 * statistics.median(ratios)))
        series.append(Series(runtime, points))
    return curves(
        series,
        "Time of the small network, percent of the dense one's, over the percent of FLOPs left",
        x_name="FLOPs left, %",
        show="{:.0f}%".format,
    )


def _on_two(lines: list[dict[str, Any]]) -> str:
    """How the ratios change with a second thread."""
    ratios: dict[tuple, dict[int, float]] = {}
    for line in lines:
        if line["share"] < 1:
            key = tuple(line[k] for k in ("network", "runtime", "batch", "share", "multiple"))
            ratios.setdefault(key, {})[line["threads"]] = line["ratio"]
    change = [both[2] / both[1] for both in ratios.values() if len(both) == len(THREADS)]
    if not change:
        return "Two threads were not measured."
    low, _, high = statistics.quantiles(change)
    return (
        f"On two threads small over dense is {statistics.median(change):.2f} times that in the "
        f"median of {len(change)} settings, {low:.2f} to {high:.2f} between the quartiles."
    )


def _share(line: dict[str, Any] | None) -> str:
    return f"{line['flops']:.0%}" if line else "–"


def _ratio(line: dict[str, Any] | None) -> str:
    return f"{line['ratio']:.2f}" if line else "–"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--threads", nargs="+", type=int, default=list(THREADS))
    options = parser.parse_args()
    done = runs.finished(RESULT, KEYS)
    for name in options.networks:
        settings = itertools.product(options.runtimes, options.threads, BATCHES)
        missing = [setting for setting in settings if (name, *setting) not in done]
        networks = sizes(NETWORKS[name]) if missing else []
        for runtime, threads, batch in missing:
            example = NETWORKS[name].rows(batch)
            seconds = timed(networks, example, runtime, threads)
            for size, took in zip(networks, seconds, strict=True):
                line = dict(zip(KEYS, (name, runtime, threads, batch), strict=True))
                line |= {"share": size.share, "multiple": size.multiple, "seconds": took}
                line |= {"flops": size.flops / networks[0].flops, "ratio": took / seconds[0]}
                runs.append(RESULT, machine() | line)
            shown = "  ".join(
                f"{size.share:.0%}/{size.multiple} {took / seconds[0]:.2f}"
                for size, took in zip(networks[1:], seconds[1:], strict=True)
            )
            print(f"{name:12} {runtime:13} {threads} threads, {batch:2} rows  {shown}", flush=True)


if __name__ == "__main__":
    main()
