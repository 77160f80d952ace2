"""Is a small network ever silently wrong beyond its example? 500 random networks.

    PYTHONPATH=tests python benchmarks/beyond_the_example.py          # some minutes on two cores
    PYTHONPATH=tests python benchmarks/beyond_the_example.py 20       # the first 20
    PYTHONPATH=tests python benchmarks/beyond_the_example.py --table  # only print what was measured

They are those of tests/random_networks.py, made of what lets a dead channel leave something else
than zeros behind: sums over positions, masks, padding, fills, gates, integers, several sizes,
normalisation without scale. A random half of each one's groups dies; the small network is compared
with the zeroed one in float64: on the example, at other lengths and image sizes, with other masks
and integers, on larger values, in eval and in train mode.
Writes a line a network to benchmarks/results/beyond-the-example.jsonl.
"""

from __future__ import annotations

import sys

import torch

import runs
from random_networks import outcome
from secateur.measurement import machine

RESULT = runs.RESULTS / "beyond-the-example.jsonl"
ALLOWED = 1e-5  # of the outputs' scale, as in float32; the networks compute in float64


def measure(seed: int) -> runs.Line:
    return outcome(seed) | machine()


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)  # they are tiny
    if arguments != ["--table"]:
        count = int(arguments[0]) if arguments else 500
        for line in runs.missing(RESULT, ("seed",), [(seed,) for seed in range(count)], measure):
            if line["difference"] > ALLOWED:
                print(line, flush=True)
    lines = runs.read(RESULT)
    shrunk = [line for line in lines if line["dead"]]
    worst = max(line["difference"] for line in lines)
    wrong = sum(line["difference"] > ALLOWED for line in lines)
    print(
        f"{len(lines)} networks, {len(shrunk)} of them shrunk, {wrong} silently wrong, "
        f"largest difference {worst:.1e}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
