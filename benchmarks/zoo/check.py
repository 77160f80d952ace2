"""What the zoo asks of one architecture: train a little, zero, shrink, save, load, export, compare.

In: an entry. Out: a dictionary of figures, one line of benchmarks/results/zoo.jsonl.
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import secateur as sc
from secateur.budget.allowance import Allowance
from secateur.measurement import count_flops
from secateur.surgery.equivalence import difference
from secateur.utils.contexts import tensors_in
from secateur.utils.forward import arguments
from zoo.entry import Entry

KINDS = ("filters", "neurons", "heads", "experts", "depth")  # as many together as can be
# and the width of the stream, where it is exact, alone
BUDGETS = (0.5, 0.2)
STEPS = 3


def check(entry: Entry, *, export: bool = True) -> dict[str, Any]:
    """Measure one architecture.

    Args:
        entry: which one.
        export: whether to write the smaller network as ONNX, too (most of the time goes there).

    Returns:
        `kinds` (kind -> groups), `alone` (kinds that share parameters with an earlier one -> the
        difference after half of their groups were removed), `refused`, the CPU seconds of
        `grouping`, and for each budget a dictionary: FLOPs asked and reached as shares of the full
        network, `exact` (the counter agrees with the plan and is not above what was asked), `floor`
        (the budget lies below the smallest network; that one was made), the output's relative
        `difference`, CPU seconds, `loads` and, of the smaller one, `onnx` ("equal" or the reason).
    """
    torch.manual_seed(0)
    model, example = entry.build(), entry.example()
    if entry.trained:
        model.eval()
    else:
        disturb(model, example)
    start = time.process_time()
    groups, kinds, apart, nothing = group(model, example)
    line: dict[str, Any] = {
        "name": entry.name,
        "family": entry.family,
        "params": sum(p.numel() for p in model.parameters()),
        "kinds": kinds,
        "grouping_seconds": round(time.process_time() - start, 2),
        "alone": {kind: remove_half(model, found) for kind, found in apart.items()},
    }
    if groups is None:
        return line | {"refused": nothing, "budgets": []}
    refused = [f"{name} ({count}): {reason}" for name, count, reason in groups.refused]
    last = BUDGETS[-1]
    budgets = [cut(entry, model, groups, b, export=export and b == last) for b in BUDGETS]
    return line | {"refused": refused, "budgets": budgets}


def disturb(model: nn.Module, example: Any, *, steps: int = STEPS) -> None:
    """Noise, then a few steps towards random targets: nothing stays at its default.

    Many classes start with weights so small that the loss of a unit would hardly show.
    """
    args, kwargs = arguments(example)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    model.train()
    for _ in range(steps):
        found = [t for t in tensors_in(model(*args, **kwargs)) if t.requires_grad]
        loss = torch.stack([(t - torch.randn_like(t)).square().mean() for t in found]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def group(
    model: nn.Module, example: Any
) -> tuple[sc.Groups | None, dict[str, int], dict[str, sc.Groups], list[str]]:
    """All kinds that apply, together; how many groups of each; those that can't be added to the
    others; why the rest does not apply.
    """
    groups: sc.Groups | None = None
    kinds: dict[str, int] = {}
    apart: dict[str, sc.Groups] = {}
    nothing: list[str] = []
    for kind in (*KINDS, "width"):
        try:
            found = getattr(sc, kind)(model, example)
        except ValueError as error:
            nothing.append(str(error))
            continue
        if any(layer.inexact for layer in found.layers):  # the stream under a LayerNorm
            nothing.append(found.layers[0].inexact)
            continue
        kinds[kind] = len(found)
        if kind == "width":
            apart[kind] = found
            continue
        try:
            groups = found if groups is None else groups + found
        except ValueError:  # a parameter can be in one group only
            apart[kind] = found
    return groups, kinds, apart, nothing


def remove_half(model: nn.Module, groups: sc.Groups) -> float:
    """The difference of the outputs after a random half of the groups has been removed."""
    zeroed = copy.deepcopy(model)
    mine = groups.on(zeroed)
    order = torch.randperm(len(mine), generator=torch.Generator().manual_seed(0))
    mine.scale_((order < (len(mine) + 1) // 2).double())
    return difference(zeroed, sc.shrink(zeroed, mine), groups.example)


def cut(
    entry: Entry, model: nn.Module, groups: sc.Groups, share: float, *, export: bool
) -> dict[str, Any]:
    """Zero random groups until `share` of the FLOPs is left, shrink, and compare."""
    example = groups.example
    full = count_flops(model, example)
    keep, floor = choose(groups, share)
    zeroed = entry.build()
    zeroed.load_state_dict(model.state_dict())
    zeroed.eval()
    mine = groups.on(zeroed)
    mine.scale_(torch.from_numpy(keep.astype(np.float64)))
    planned = round(sc.Budget(flops=1.0).on(mine).spent(keep.astype(float))["flops"])
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = sc.shrink(zeroed, mine)
    seconds = time.process_time() - start
    stayed = [str(w.message) for w in caught if "stay in the network" in str(w.message)]
    reached = count_flops(small, example)
    return {
        "asked": share,
        "floor": floor,
        "reached": round(reached / full, 4),
        "exact": reached == planned and (floor or reached <= share * full),
        "stayed": stayed,
        "difference": difference(zeroed, small, example),
        "shrink_seconds": round(seconds, 2),
        "loads": round_trip(entry, small, example),
        "onnx": to_onnx(small, example) if export else "",
    }


def choose(groups: sc.Groups, share: float) -> tuple[np.ndarray, bool]:
    """Which groups to keep, by random saliency; and whether that is the smallest network."""
    try:
        allowance = sc.Budget(flops=share).on(groups)
    except ValueError as error:
        if "can't be reached" not in str(error):
            raise
        full: Allowance = sc.Budget(flops=1.0).on(groups)
        return full.cheapest(), True
    return allowance.choose(np.random.default_rng(0).uniform(size=len(groups))), False


def round_trip(entry: Entry, small: nn.Module, example: Any) -> bool:
    """Whether the saved file makes the same small network of a new full-size one."""
    with tempfile.TemporaryDirectory() as folder:
        path = sc.save(small, Path(folder) / "small.safetensors")
        torch.manual_seed(1)
        loaded = sc.load(path, model=entry.build())
    return difference(small, loaded, example) == 0


def to_onnx(small: nn.Module, example: Any) -> str:
    """ "equal", or why the small network can't be exported."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        errors: list[str] = []
        for dynamic in (True, False):
            try:
                sc.export(small, example, path, dynamic=("batch",) if dynamic else ())
            except Exception as error:  # noqa: PERF203
                errors.append(f"{type(error).__name__}: {first_line(error)}")
            else:
                return "equal" if dynamic else "equal, fixed batch"
    return errors[-1]


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else ""
