"""The whole proximal operator against the machine's memory, and against what else there is.

    pip install --no-deps modopt==1.7.2 entmax==1.3 tqdm      # the others; without them: ours alone
    python benchmarks/speed/prox.py                           # a few minutes on one core

Writes benchmarks/results/speed-prox.jsonl. Everything runs on one thread, in one process, in turns;
the figures are medians of the thread's own seconds (CPU time: the machine may be shared). The bound
is three passes over the values, read, read and written, at the speed of a copy of the same bytes.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import runs
from secateur.envelope import firm_, implementation, prox, prox_
from secateur.kernels import cpu
from secateur.measurement.host import machine

SEED = 0
SIZES = [100_000, 1_000_000, 10_000_000, 100_000_000]
GROUPS = [1, 9, 64, 512]
KEPT = 0.1  # of all groups
STEP = 0.3
RESULT = runs.RESULTS / "speed-prox.jsonl"
Call = Callable[[], Any]


def main() -> None:
    torch.set_num_threads(1)
    about = {"machine": machine(), "implementation": implementation(), "seed": SEED}
    RESULT.unlink(missing_ok=True)
    for n in SIZES:
        for size in GROUPS:
            for line in against_memory(n, size):
                write(line | about)
    for n in (1_000, 100_000, 1_000_000):
        for line in against_others(n):
            write(line | about)
    write({"what": "breakpoints, ModOpt"} | differences_at_breakpoints() | about)


def write(line: dict[str, Any]) -> None:
    runs.append(RESULT, line)
    print({key: value for key, value in line.items() if key != "machine"}, flush=True)


def against_memory(n: int, size: int) -> list[dict[str, Any]]:
    """Time prox_ and firm_ on n float32 values in groups of `size`, and a copy of their bytes."""
    torch.manual_seed(SEED)
    source = torch.randn(n // size, size)
    values, copy = torch.empty_like(source), torch.empty_like(source)
    level = KEPT * len(source)
    calls: dict[str, Call] = {
        "copy": lambda: copy.copy_(source),
        "prox_": lambda: prox_(values, level, step=STEP),
        "firm_": lambda: firm_(values, level, hardness=0.5),
    }
    seconds = in_turns(calls, repeats(n), before=lambda: values.copy_(source))
    bound = 1.5 * seconds.pop("copy")
    return [
        {"what": "memory", "call": call, "values": n, "group": size, "seconds": taken}
        | {"bound": bound}
        for call, taken in seconds.items()
    ]


def against_others(n: int) -> list[dict[str, Any]]:
    """Time the factors (or the prox) of n single weights, by every means there is."""
    torch.manual_seed(SEED)
    norms = torch.randn(n, dtype=torch.float64).abs()
    array, level = norms.numpy(), float(int(KEPT * n))
    calls: dict[str, Call] = {
        "secateur, compiled": lambda: prox(norms, level, step=STEP),
        "secateur, plain": lambda: plainly(lambda: prox(norms, level, step=STEP)),
        "sorting, NumPy": lambda: sorting_numpy(array, level),
    }
    others = {"ModOpt": modopt, "entmax, root only": entmax, "CVXPY": cvxpy}
    for name, other in others.items():
        if name == "CVXPY" and n > 1_000:
            continue
        found = other(array, level)
        if found is None:
            print(f"{name} is not installed")
        else:
            calls[name] = found
    seconds = in_turns(calls, repeats(10 * n))
    ours = calls["secateur, compiled"]().numpy()
    lines = []
    for name, taken in seconds.items():
        factors = None if "root only" in name else np.asarray(calls[name]())
        error = None if factors is None else float(np.abs(factors - ours).max())
        line = {"what": "others", "call": name, "values": n, "seconds": taken, "difference": error}
        lines.append(line | {"over_ours": taken / seconds["secateur, compiled"]})
    return lines


def in_turns(calls: dict[str, Call], times: int, before: Call = lambda: None) -> dict[str, float]:
    """The median of each call's CPU seconds; a round calls all of them, the first one not kept."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(times + 1):
        for name, call in calls.items():
            before()
            start = time.thread_time()
            call()
            seconds[name].append(time.thread_time() - start)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def repeats(n: int) -> int:
    return max(3, min(51, 50_000_000 // n))


def plainly(call: Call) -> Any:
    """A call as it runs where there is no compiled library."""
    library, cpu._library = cpu._library, None
    try:
        return call()
    finally:
        cpu._library = library


def sorting_numpy(norms: np.ndarray, level: float) -> np.ndarray:
    """Sort the 2 n breakpoints and add up what is spent between them: costs and weights are 1."""
    points = np.concatenate([STEP / norms, (1 + STEP) / norms])
    order = np.argsort(points)
    rates = np.cumsum(np.concatenate([norms, -norms])[order])
    points = points[order]
    spent = np.concatenate([[0.0], np.cumsum(np.diff(points) * rates[:-1])])
    last = np.searchsorted(spent, level, side="right") - 1
    t = points[last] + (level - spent[last]) / rates[last]
    kept = np.clip(t * norms - STEP, 0, 1)
    return kept / (kept + STEP)


def modopt(norms: np.ndarray, level: float) -> Call | None:
    sys.modules.setdefault("importlib_metadata", metadata)  # what it imports is in Python now
    warnings.simplefilter("ignore")
    try:
        from modopt.opt.proximity import KSupportNorm
    except ImportError:
        return None
    operator = KSupportNorm(beta=STEP, k_value=int(level))
    return lambda: operator._op_method(norms) / norms


def entmax(norms: np.ndarray, level: float) -> Call | None:
    """The same kind of root, sum clip(x - t, 0, 1) = level, by bisection; no prox."""
    try:
        from entmax import budget_bisect
    except ImportError:
        return None
    values = torch.from_numpy(norms)
    return lambda: budget_bisect(values, budget=level)


def cvxpy(norms: np.ndarray, level: float) -> Call | None:
    try:
        import cvxpy as cp
    except ImportError:
        return None
    x, bound, kept = cp.Variable(len(norms)), cp.Variable(len(norms)), cp.Variable(len(norms))
    cone = cp.SOC(bound + kept, cp.vstack([2 * x, bound - kept]), axis=0)
    objective = cp.sum_squares(x - norms) / 2 + STEP * cp.sum(bound) / 2
    limits = [kept >= 0, kept <= 1, cp.sum(kept) <= level, cone]
    problem = cp.Problem(cp.Minimize(objective), limits)

    def call() -> np.ndarray:
        problem.solve(solver=cp.CLARABEL)
        return np.asarray(x.value) / norms

    return call


def differences_at_breakpoints() -> dict[str, Any]:
    """How far ModOpt's prox is from ours on small whole numbers: ties, breakpoints met exactly."""
    tried, worst = 0, 0.0
    for size in range(1, 6):
        for values in combinations_with_replacement([1.0, 2.0, 3.0, 4.0, 8.0], size):
            norms = np.array(values)
            for level in range(1, size + 1):
                theirs = modopt(norms, level)
                if theirs is None:
                    return {}
                ours = prox(torch.from_numpy(norms), level, step=STEP).numpy()
                tried, worst = tried + 1, max(worst, float(np.abs(theirs() - ours).max()))
    return {"problems": tried, "difference": worst}


if __name__ == "__main__":
    main()
