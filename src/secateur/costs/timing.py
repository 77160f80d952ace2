"""Making a `LatencyTable`: thinner copies of a network, timed layer by layer and as a whole.

In: groups that were traced, a runtime. Out: a table (fitting.py makes it of the seconds).

Layers are timed in torch, inside real networks: from the start of one operator that costs FLOPs to
the start of the next, with random widths in every layer. Whole networks are timed in the runtime
itself; what its layers cost together follows from a scale for each kind of operator.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from secateur.costs.fitting import fit_layers, fit_networks, is_there
from secateur.costs.latency_table import LatencyTable, NetworkTime, example_words
from secateur.costs.multiples import steps
from secateur.groups import Groups
from secateur.measurement import Latency, time_together
from secateur.measurement.host import machine
from secateur.measurement.latency import STEADY, synchronize
from secateur.runtimes import check_runtime, prepare, using_threads
from secateur.runtimes.table import trials
from secateur.surgery.removal import remove
from secateur.tracing import rules
from secateur.tracing.attention import converted
from secateur.utils.contexts import preserve_state, unfused_ops, unfused_rnn
from secateur.utils.forward import device_of, forward

UNIFORM = (0.75, 0.5, 0.25, 0.125)  # shares of the thinner networks, the same in every layer
RANDOM = 12  # and networks with shares of their own in every layer
REPEATS = 20  # of the timing layer by layer

Watch = Callable[[str, int, int, str], None]


def profile(
    groups: Groups,
    *,
    runtime: str = "torch",
    threads: int | None = None,
    multiple_of: int = 1,
    watch: Watch = lambda what, done, total, words: None,
) -> LatencyTable:
    """Measure how long a network takes by the widths of its layers, on this machine.

    Args:
        groups: traced groups of the network, on inputs of the batch size that counts.
        runtime: one of `secateur.runtimes.RUNTIMES`, such as "torch" or "onnxruntime".
        threads: how many the runtime uses; by default as many as torch is set to.
        multiple_of: as in the budget: kernels are fast at some widths only.
        watch: told how far things are.

    Returns:
        A table, good for these groups of this network; `table.save(path)` writes it down.

    Raises:
        ValueError: the groups were not traced, or the runtime isn't known.
        ImportError: the runtime is missing.
        RuntimeError: the device is too busy to be measured.

    Warns:
        RuntimeWarning: the device is busy, so that measuring takes longer; or the table is more
            than 15% off.

    Example:
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> table = profile(sc.neurons(model, torch.ones(8, 64)))
        >>> table.model, [layer.name for layer in table.layers]
        ('Sequential', ['0', '2'])
    """
    check_runtime(runtime)
    if groups.coupling is None or groups.model is None or groups.example is None:
        raise ValueError(
            "a latency table needs groups that were traced through the model, such as filters; "
            "these leave zeros in place and make nothing faster"
        )
    example = inputs(groups)
    threads = threads or torch.get_num_threads()
    whole, unknown = trials(runtime)  # networks that run in the runtime, and more to judge by
    rng = np.random.default_rng(0)
    units = steps(groups, multiple_of)
    choices = [np.ones(len(groups), bool)]
    choices += [_thinner(groups, units, rng, share) for share in UNIFORM]
    choices += [_thinner(groups, units, rng) for _ in range(RANDOM + unknown)]
    with using_threads(threads):
        names, rows, networks = _time_layers(groups, choices, example, watch)
        layers = fit_layers(groups, choices, names, rows)
        known = whole + 1
        chosen = [*range(known), *range(len(choices) - unknown, len(choices))]
        wholes = _time_wholes([networks[n] for n in chosen], example, runtime, threads, watch)
    seconds = np.array([whole.median for whole in wholes])
    kept = [choices[n] for n in chosen]
    offset, scales, predicted = fit_networks(groups, layers, kept, seconds, known)
    error = float(np.abs(predicted[known:] / seconds[known:] - 1).mean())
    table = LatencyTable(
        model=type(groups.model).__name__,
        example=example_words(groups),
        runtime=runtime,
        threads=threads,
        multiple_of=multiple_of,
        machine=machine(),
        layers=layers,
        offset=offset,
        scales=scales,
        networks=tuple(NetworkTime(whole.median, whole.spread) for whole in wholes),
        error=error,
    )
    _judge(table)
    return table


def inputs(groups: Groups) -> Any:
    """The groups' example, where the model is."""
    assert groups.model is not None
    device = device_of(groups.model, groups.example)
    return tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, groups.example)


def without(groups: Groups, kept: np.ndarray) -> nn.Module:
    """A copy of the groups' model from which all others than `kept`, bool of (m,), are removed."""
    assert groups.model is not None
    zeroed = copy.deepcopy(groups.model).eval()
    theirs = groups.on(zeroed)
    theirs.scale_(torch.from_numpy(kept.astype(float)))
    return remove(zeroed, theirs, ~kept).model


# -- which networks ------------------------------------------------------------------------------


def _thinner(
    groups: Groups, units: Sequence[int], rng: np.random.Generator, share: float | None = None
) -> np.ndarray:
    """Random groups to keep: this share of every layer, or shares of their own; one unit at least.

    What no trace ties to an axis stays, since it makes nothing faster.
    """
    kept = np.zeros(len(groups), bool)
    for layer, unit in zip(groups.layers, units, strict=True):
        part = share or rng.uniform(UNIFORM[-1], 1)
        count = min(max(round(part * len(layer) / unit), 1) * unit, len(layer))
        if layer.blocks:
            count = len(layer)
        kept[layer.start + rng.permutation(len(layer))[:count]] = True
    return kept


# -- layer by layer ------------------------------------------------------------------------------


def _time_layers(
    groups: Groups, choices: Sequence[np.ndarray], example: Any, watch: Watch
) -> tuple[list[str], list[dict[int, float]], list[nn.Module]]:
    """The names of the operators; for each network the seconds of those it has; the networks."""
    assert groups.coupling is not None
    operations = groups.coupling.operations
    names = [""] * len(operations)
    rows, networks = [], []
    for number, kept in enumerate(choices):
        watch("timing layers", number, len(choices), "")
        network = without(groups, kept)
        there = [n for n, operation in enumerate(operations) if is_there(operation, kept)]
        wanted = [operations[n].name for n in there]
        found, seconds = _segments(network, example, wanted)
        rows.append(dict(zip(there, seconds, strict=True)))
        networks.append(network)
        for n, name in zip(there, found, strict=True):
            names[n] = names[n] or name
    return names, rows, networks


def _segments(model: nn.Module, example: Any, wanted: list[str]) -> tuple[list[str], list[float]]:
    """The module that calls each operator that costs FLOPs, and the time until the next one."""
    run, device = forward(model, example), device_of(model, example)
    for apart in (nullcontext, unfused_rnn):  # recurrent layers: one operator, or many
        with preserve_state(model), converted(model), torch.no_grad(), unfused_ops(), apart():
            finder = _Finder(model)
            with finder:
                run()
            if [name for _, name, _ in finder.found] != wanted:
                continue
            times = []
            for _ in range(REPEATS):
                clock = _Clock({place for place, _, _ in finder.found}, device)
                with clock:
                    run()
                times.append(np.diff([*clock.times, clock.now()]))
            return [owner for _, _, owner in finder.found], np.quantile(
                times, 0.25, axis=0
            ).tolist()
    raise RuntimeError(
        f"profile: {type(model).__name__} runs other operators when it is thinner, so its layers "
        "can't be timed one by one; use a budget on flops= instead"
    )


class _Finder(TorchDispatchMode):
    """Notes which of the operators of a run cost FLOPs: (place in the run, name, module)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[tuple[int, str, str]] = []
        self._open: list[str] = []
        self._count = 0
        self._hooks = []
        for name, module in model.named_modules():
            enter = lambda *_, name=name: self._open.append(name)  # noqa: E731
            leave = lambda *_: self._open.pop() and None  # noqa: E731
            self._hooks.append(module.register_forward_pre_hook(enter))
            self._hooks.append(module.register_forward_hook(leave))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        call = rules.Call(func, args, kwargs or {}, out)
        if call.flops():
            owner = self._open[-1] if self._open else ""
            self.found.append((self._count, call.name, owner or call.name))
        self._count += 1
        return out

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()


class _Clock(TorchDispatchMode):
    """Reads the clock before the operators at some places of a run."""

    def __init__(self, places: set[int], device: torch.device) -> None:
        super().__init__()
        self.places = places
        self.device = device
        self.times: list[float] = []
        self._count = 0

    def now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self._count in self.places:
            self.times.append(self.now())
        self._count += 1
        return func(*args, **(kwargs or {}))


# -- as a whole ----------------------------------------------------------------------------------


def _time_wholes(
    networks: Sequence[nn.Module], example: Any, runtime: str, threads: int, watch: Watch
) -> list[Latency]:
    runs = []
    for number, network in enumerate(networks):
        watch(f"preparing {runtime}", number, len(networks), "")
        runs.append(prepare(network, example, runtime, threads=threads))
    watch("timing networks", 0, 0, "")
    device = device_of(networks[0], example)
    return time_together(runs, wait=lambda: synchronize(device))


def _judge(table: LatencyTable) -> None:
    """Refuse figures of a device that never got quiet; say so where the table is far off."""
    worst = max(table.networks, key=lambda network: network.spread / network.seconds)
    if worst.spread > STEADY * worst.seconds:
        raise RuntimeError(
            f"the device is too busy to be measured: the quartiles even of the fastest tenth of "
            f"all forwards lie {worst.spread / worst.seconds:.0%} of its median apart; "
            "free the machine, or train to a table that was made on a quiet one"
        )
    if table.error > 0.15:
        advice = "" if table.multiple_of > 1 else "; widths in multiples (multiple_of=16) may help"
        warnings.warn(
            f"the latency table of {table.model} is {table.error:.0%} off on average{advice}. "
            "What is chosen by it will be measured all the same",
            RuntimeWarning,
            stacklevel=3,
        )
