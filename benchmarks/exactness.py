"""Is what was asked what is reached? Every network of the zoo, at many budgets, counted anew.

    python benchmarks/exactness.py                  # all networks, about 40 minutes on one core
    python benchmarks/exactness.py lenet vgg16-bn   # some of them, measured anew
    python benchmarks/exactness.py --table          # only print what was measured

A case is a network, weights (random, or trained for some steps on random data), a measure, a share
and a multiple of widths. Groups are chosen, the network is really shrunk, and the shrunk one is
counted: FLOPs by torch's own counter, parameters and bytes on its tensors. A case is met where

    reached <= asked   and   asked - reached < the cheapest unit that was left out

A share below the smallest network is refused before anything is done: it is counted apart. For one
budget a network FLOPs are counted once more, on the exported ONNX graph.
Writes a line a network and weights to benchmarks/results/exactness.jsonl.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import runs
import secateur as sc
from secateur.budget import Allowance
from secateur.deploy import onnx_flops
from secateur.measurement import count_bytes, count_flops, count_params, machine
from secateur.optim.penalties import Problem, Relaxation
from secateur.utils.forward import inputs_of
from zoo import check
from zoo.entry import Entry, everything

RESULT = runs.RESULTS / "exactness.jsonl"
SHARES = (0.75, 0.5, 0.25, 0.1, 0.05)
MEASURES = ("flops", "params", "bytes", "groups")
MULTIPLES = (1, 8)
STEPS = {"random": 0, "trained": 20}


def measure(entry: Entry, weights: str) -> dict[str, Any]:
    """All cases of one network."""
    torch.manual_seed(0)
    model, example = entry.build(), entry.example()
    if entry.trained:
        model.eval()
    else:
        check.disturb(model, example, steps=STEPS[weights])
    groups, kinds, _, refusals = check.group(model, example)
    line: dict[str, Any] = {"name": entry.name, "weights": weights, "kinds": kinds}
    if groups is None:
        return line | {"cases": 0, "why": refusals}
    seen: dict[bytes, nn.Module] = {}
    cases = []
    for what in MEASURES:
        for share in SHARES:
            for multiple in MULTIPLES:
                budget = sc.Budget(**{what: share}, multiple_of=multiple)
                cases.append(case(entry, model, groups, budget, seen))
    asked = [case for case in cases if "refused" not in case]
    failed = [case for case in asked if not case["met"]]
    worst = max(asked, key=lambda case: case["gap"], default=None)
    return line | {
        "groups": len(groups),
        "cases": len(cases),
        "refused": len(cases) - len(asked),
        "met": len(asked) - len(failed),
        "failed": failed,
        "worst": worst,
        "onnx": on_onnx(seen, groups.example) if weights == "random" else None,
    }


def case(
    entry: Entry, model: nn.Module, groups: sc.Groups, budget: sc.Budget, seen: dict
) -> dict[str, Any]:
    """One budget: choose by the groups' norms, shrink, count."""
    found: dict[str, Any] = {"budget": str(budget)}
    try:
        allowance = budget.on(groups)
    except ValueError as error:
        return found | {"refused": str(error)}
    assert isinstance(allowance, Allowance)
    ones = np.ones(len(groups))
    problem = Problem(allowance, groups.norms().numpy(), ones, Relaxation(ones))
    kept = allowance.choose(problem.saliency())
    key = kept.tobytes()
    if key not in seen:
        seen[key] = shrunk(entry, model, groups, kept)
    small = seen[key]
    (what, _), *_ = budget.amounts()
    reached = count(what, small, groups.example)
    asked, unit = int(allowance.limits[what]), cheapest(allowance, kept, what)
    return found | {
        "asked": asked,
        "reached": reached,
        "unit": unit,
        "gap": round((asked - reached) / unit, 4) if unit else 0.0,
        "met": reached <= asked and (unit is None or asked - reached < unit),
    }


def shrunk(entry: Entry, model: nn.Module, groups: sc.Groups, kept: np.ndarray) -> nn.Module:
    zeroed = entry.build()
    zeroed.load_state_dict(model.state_dict())
    zeroed.eval()
    mine = groups.on(zeroed)
    mine.scale_(torch.from_numpy(kept.astype(np.float64)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what stays shows in the count
        return sc.shrink(zeroed, mine)


def count(what: str, small: nn.Module, example: Any) -> int:
    if what == "flops":
        return count_flops(small, example)
    if what == "groups":
        return sum(kept for kept, _ in small.secateur.groups.values())  # pyright: ignore
    return count_params(small) if what == "params" else count_bytes(small)


def cheapest(allowance: Allowance, kept: np.ndarray, what: str) -> float | None:
    """What the cheapest unit that was left out would cost; None where nothing was."""
    now, added = allowance.spent(kept.astype(float))[what], []
    slopes = allowance.slopes(kept.astype(float))
    for layer, step in zip(allowance.layers, allowance.steps, strict=True):
        out = layer.start + np.flatnonzero(~kept[layer.span])
        if len(out) >= step:
            more = kept.astype(float)
            more[out[np.argsort(slopes[out], kind="stable")][:step]] = 1
            added.append(allowance.spent(more)[what] - now)
    return round(min(added)) if added else None


def on_onnx(seen: dict[bytes, nn.Module], example: Any) -> str:
    """Whether FLOPs counted on the ONNX graph of one of the networks are torch's, or why not."""
    small = next(iter(seen.values()), None)
    if small is None:
        return "nothing was shrunk"
    rows = len(inputs_of(example)[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        try:
            sc.export(small, example, path, dynamic=())
            there = onnx_flops.count_flops(path, batch=rows)
        except Exception as error:
            return check.first_line(error)
    here = count_flops(small, example)
    return "equal" if here == there else f"torch {here:,}, ONNX {there:,}"


def show(path: Path) -> None:
    """Print the share of cases that are met, and the worst."""
    lines = [line for line in runs.read(path) if line["cases"]]
    asked = sum(line["cases"] - line["refused"] for line in lines)
    met = sum(line["met"] for line in lines)
    print(f"{len({line['name'] for line in lines})} networks, {asked:,} cases, {met:,} met")
    print(f"{sum(line['refused'] for line in lines):,} budgets below the smallest network, refused")
    for line in lines:
        for failed in line["failed"]:
            print("not met:", line["name"], line["weights"], failed)
    worst = max((x for x in lines if x["worst"]), key=lambda x: x["worst"]["gap"])
    print("worst:", worst["name"], worst["weights"], worst["worst"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo = everything()
    done = runs.finished(RESULT, ("name", "weights"))
    for name in options.names or zoo if not options.table else ():
        for weights in STEPS:
            if ((name, weights) in done and not options.names) or (
                weights == "random" and zoo[name].trained
            ):
                continue
            start = time.perf_counter()
            try:
                line = measure(zoo[name], weights)
            except Exception as error:
                line = {"name": name, "weights": weights, "cases": 0, "why": repr(error)[:300]}
            line |= {"seconds": round(time.perf_counter() - start, 1), **machine()}
            runs.replace(RESULT, line, ("name", "weights"))
            words = f"{line['met']} of {line['cases'] - line['refused']}" if line["cases"] else "-"
            print(f"{name:28} {weights:8} {line['seconds']:6.1f} s  {words}", flush=True)
    show(RESULT)


if __name__ == "__main__":
    main()
