"""The proximal operator and the proximal step on a GPU: against its memory, and beside fused AdamW.

    python benchmarks/gpu/prox.py                # under ten minutes; needs a GPU and Triton
    python benchmarks/gpu/prox.py --smoke        # tiny sizes, on a CPU too: does it run?

Writes benchmarks/results/gpu-prox.jsonl (--smoke: nothing, without --out). Three kinds of lines:

- "memory": prox_ and firm_ on n float32 values in groups of a size, called from Python ("eager")
  and replayed from a CUDA graph ("graph": without what Python and the launches take). The bound is
  three passes over the values, read, read and written, at the speed of a copy of the same bytes.
- "rows": the root of many rows in the same launches, one row a layer, beside one row after another.
- "step": the step of fused AdamW, and of Proximal around it, on the shapes of known networks.

Everything compared is timed in turns; figures are medians of seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import shapes

import runs
from secateur import Budget, Homotopy, Proximal
from secateur.envelope import firm_, prox_, root
from secateur.kernels.gpu import takes
from secateur.measurement.host import machine

SEED = 0
SIZES = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
GROUPS = [1, 9, 64, 512]
ROWS = [(16, 512), (64, 2048), (256, 4096)]  # rows and lines of each
KEPT = 0.1  # of all groups
STEP = 0.3
ROUNDS = 20  # of steps, before the freeze and after it
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RESULT = runs.RESULTS / "gpu-prox.jsonl"
Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on a CPU too")
    parser.add_argument("--out", type=Path, help="where the lines go")
    options = parser.parse_args()
    if DEVICE.type == "cpu" and not options.smoke:
        parser.error("this needs a GPU that torch can use; --smoke runs tiny sizes on the CPU")
    out = options.out or (None if options.smoke else RESULT)
    about = {"machine": machine(), "triton": _triton(), "seed": SEED, "smoke": options.smoke}
    if out is not None:
        out.unlink(missing_ok=True)
    for line in measure(options.smoke):
        print(line, flush=True)
        if out is not None:
            runs.append(out, line | about)


def measure(smoke: bool) -> Iterator[dict[str, Any]]:
    for values in [100, 2_000] if smoke else SIZES:
        for size in GROUPS[:2] if smoke else GROUPS:
            yield from against_memory(values, size)
    for rows, lines in [(3, 50)] if smoke else ROWS:
        yield from together(rows, lines)
    for name in shapes.NETWORKS:
        yield from beside_adamw(name, 1 / 32 if smoke else 1.0, 3 if smoke else ROUNDS)


def against_memory(values: int, size: int) -> Iterator[dict[str, Any]]:
    """Time prox_ and firm_ in place, and a copy of the same bytes."""
    torch.manual_seed(SEED)
    source = torch.randn(values // size, size, device=DEVICE)
    target = torch.empty_like(source)
    level = KEPT * len(source)
    calls: dict[str, Call] = {
        "copy": lambda: target.copy_(source),
        "prox_": lambda: prox_(target, level, step=STEP),
        "firm_": lambda: firm_(target, level, hardness=0.5),
    }
    for mode, seconds in {
        "eager": in_turns(calls, before=calls["copy"]),
        "graph": from_graphs(calls, before=calls["copy"]),
    }.items():
        if seconds is None:
            continue
        bound = 1.5 * seconds.pop("copy")
        for call, taken in seconds.items():
            line = {"what": "memory", "mode": mode, "call": call, "values": values, "group": size}
            yield line | {"seconds": taken, "bound": bound}


def together(rows: int, lines: int) -> Iterator[dict[str, Any]]:
    """Time the roots of all rows in the same launches, and of one row after another."""
    torch.manual_seed(SEED)
    slope = torch.rand(rows, lines, device=DEVICE)
    offset, cost = slope.new_full((), STEP).double(), slope.new_ones(()).double()
    level = slope.new_full((rows,), KEPT * lines).double()
    seconds = in_turns(
        {
            "together": lambda: root.root(slope, offset, cost, level),
            "one by one": lambda: [
                root.root(row, offset, cost, one) for row, one in zip(slope, level, strict=True)
            ],
        }
    )
    for call, taken in seconds.items():
        yield {"what": "rows", "call": call, "rows": rows, "lines": lines, "seconds": taken}


def beside_adamw(name: str, share: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Time the steps of fused AdamW and of Proximal around it, on equal gradients."""
    torch.manual_seed(SEED)
    plain, ours = (shapes.NETWORKS[name](share).to(DEVICE) for _ in range(2))
    for a, b in zip(plain.parameters(), ours.parameters(), strict=True):
        a.grad = 0.01 * torch.randn_like(a)
        b.grad = a.grad.clone()
    groups = shapes.groups(ours)
    adamw = torch.optim.AdamW(plain.parameters(), lr=1e-3, fused=True)
    wrapped = torch.optim.AdamW(ours.parameters(), lr=1e-3, fused=True)
    schedule = Homotopy(2 * rounds + 2, freeze=0.5)
    proximal = Proximal(wrapped, groups, Budget(groups=0.5), schedule=schedule)
    phases: dict[str, list[tuple[float, float]]] = {}
    for _ in range(2 * rounds + 2):
        frozen = proximal.frozen
        both = clocked(adamw.step), clocked(proximal.step)
        if proximal.frozen == frozen:  # the freeze itself happens once
            phases.setdefault("after" if frozen else "before", []).append(both)
    for phase, times in phases.items():
        alone, with_prox = (statistics.median(column) for column in zip(*times[1:], strict=True))
        line = {"what": "step", "network": name, "phase": f"{phase} the freeze"}
        line |= {"parameters": sum(p.numel() for p in ours.parameters()), "groups": len(groups)}
        yield line | {"adamw": alone, "proximal": with_prox, "ratio": with_prox / alone}


def in_turns(calls: dict[str, Call], before: Call = lambda: None) -> dict[str, float]:
    """The median seconds of each call; a round calls all of them, the first ones not kept."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(23):
        for name, call in calls.items():
            before()
            seconds[name].append(clocked(call))
    return {name: statistics.median(taken[3:]) for name, taken in seconds.items()}


def from_graphs(calls: dict[str, Call], before: Call) -> dict[str, float] | None:
    """The same from CUDA graphs of `before` and each call, less `before`; None without a GPU."""
    if DEVICE.type == "cpu":
        return None
    graphs = {}
    for name, call in {"before": lambda: None, **calls}.items():
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            before()
            call()
    seconds = in_turns({name: graph.replay for name, graph in graphs.items()})
    start = seconds.pop("before")
    return {name: max(taken - start, 1e-9) for name, taken in seconds.items()}


def clocked(call: Call) -> float:
    """The seconds of a call, until the device has done it."""
    if DEVICE.type == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def _triton() -> str:
    """Which Triton the kernels ran with; "" where plain operations ran."""
    if not takes(torch.ones(1, device=DEVICE)):
        return ""
    import triton

    return triton.__version__


if __name__ == "__main__":
    main()
