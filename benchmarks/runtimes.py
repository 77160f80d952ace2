"""What each runtime makes of the FLOPs saved: time of small over dense, one row, one thread.

    PYTHONPATH=benchmarks python benchmarks/runtimes.py     # what is installed; half an hour

Four networks, with widths as they come out and in multiples of 8, in torch and in every runtime
that `sc.export` writes for. Dense and small are timed in turns in one process. Lines that are
there already are skipped.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import runs
import secateur as sc
from secateur.measurement import machine
from secateur.runtimes import EXPORTED, check_runtime
from speed.product import NETWORKS, Network, Size, cut, images, made, timed

RESULT = runs.RESULTS / "runtimes.jsonl"
KEYS = ("network", "runtime", "multiple")
MULTIPLES = (1, 8)


def cnn() -> nn.Module:
    """Three convolutions on images of 32 by 32."""
    return nn.Sequential(
        *[nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()],
        *[nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()],
        *[nn.Conv2d(64, 128, 3, 2, 1), nn.BatchNorm2d(128), nn.ReLU()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)],
    )


CASES: dict[str, tuple[Network, float]] = {
    "CNN, 25%": (Network(cnn, images(3, 32), sc.filters), 0.25),
    "ResNet-18, 25%": (NETWORKS["ResNet-18"], 0.25),
    "MobileNetV2, 50%": (NETWORKS["MobileNetV2"], 0.5),
    "BERT-small, 50%": (NETWORKS["BERT-small"], 0.5),
}
RUNTIMES = ("torch", *EXPORTED)


def measured(case: str, multiple: int, runtimes: list[str]) -> Iterator[runs.Line]:
    """One line a runtime."""
    network, share = CASES[case]
    example = network.rows(1)
    dense, model = made(network), made(network)
    budget = sc.Budget(flops=share, multiple_of=multiple)
    small = cut(model, network.group(model, example), budget)
    flops = [sc.measure(one, example, latency=False).flops for one in (dense, small)]
    sizes = [Size(1.0, 1, flops[0], dense), Size(share, multiple, flops[1], small)]
    for runtime in runtimes:
        line: runs.Line = {"network": case, "runtime": runtime, "multiple": multiple}
        line |= {"flops": flops[1] / flops[0], "machine": machine()}
        try:
            full, less = timed(sizes, example, runtime, threads=1)
        except RuntimeError as error:
            yield line | {"refused": str(error).splitlines()[0]}
            continue
        yield line | {"dense_seconds": full, "small_seconds": less, "ratio": less / full}


def table(lines: list[dict[str, Any]]) -> str:
    """One row a runtime; widths as they come, then in multiples of 8."""
    found = {tuple(line[key] for key in KEYS): line for line in lines}
    cases = [case for case in CASES if any(key[0] == case for key in found)]
    rows = [f"| runtime | {' | '.join(cases)} |", "|---|" + "---:|" * len(cases)]
    facts = lines[0]["machine"]
    for runtime in RUNTIMES:
        if any(key[1] == runtime for key in found):
            cells = [
                " / ".join(_cell(found.get((case, runtime, multiple))) for multiple in MULTIPLES)
                for case in cases
            ]
            version = facts.get(EXPORTED[runtime].distribution if runtime in EXPORTED else "torch")
            rows.append(f"| {runtime} {version} | {' | '.join(cells)} |")
    rows += ["", f"{facts['processor']}; torch {facts['torch']}, Python {facts['python']}."]
    return "\n".join(rows)


def _cell(line: dict[str, Any] | None) -> str:
    if line is None:
        return "–"
    return f"{line['ratio']:.2f}" if "ratio" in line else "refused"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = runs.finished(RESULT, KEYS)
    for case, multiple in itertools.product(options.networks, MULTIPLES):
        left = [one for one in options.runtimes if (case, one, multiple) not in done]
        for line in measured(case, multiple, [one for one in left if _installed(one)]):
            runs.append(RESULT, line)
            print(case, multiple, line["runtime"], _cell(line), line.get("refused", ""), flush=True)


def _installed(runtime: str) -> bool:
    try:
        check_runtime(runtime)
    except ImportError as error:
        print(f"{runtime} is left out: {error}")
        return False
    return True


if __name__ == "__main__":
    main()
