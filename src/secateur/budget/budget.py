"""`Budget`: what the user can afford.

In: fractions or absolute numbers for one or several measures. Out: the `Allowance` of a model's
groups, and what a model has reached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, replace
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.budget.allowance import Allowance
from secateur.budget.amounts import read_amount
from secateur.budget.clock import Clock, clock_for
from secateur.budget.n_of_m import NMAllowance
from secateur.budget.reached import Line, Reached, reason
from secateur.budget.target import LatencyTarget, as_latency_target
from secateur.budget.trials import MemoryTrial, Trial, timed
from secateur.budget.uniform import UniformAllowance
from secateur.costs.measures import MEASURES, cost, full_costs
from secateur.costs.multiples import steps
from secateur.groups import Groups
from secateur.measurement import (
    count_bytes,
    count_flops,
    count_params,
    format_measure,
    measure_peak_memory,
)
from secateur.surgery.plan import Plan, plan_of

Amount = float | int | str | tuple[float, int]


@dataclass(frozen=True)
class Budget:
    """How much of a network may be kept; several measures at once must all hold.

    Each amount is a fraction of the full network (a float in (0, 1], or "25%"), an absolute number
    (an int, or "1.5M", "2MiB"), or a pair of both, which must agree.

    Args:
        groups: how many groups stay.
        flops: FLOPs of one run on the example inputs, two for a multiply and an add.
        params: parameters, tied ones counted once.
        bytes: bytes of parameters and buffers.
        memory: peak bytes of one run on the example inputs: weights, inputs and all activations
            that are alive at once.
        latency: of one run on the example inputs: a fraction, a time with its unit such as "3ms",
            or a `LatencyTarget`, which also says in which runtime, on how many threads, by which
            table. Measured on this machine; the chosen network is measured again.
        runtime: in which the latency counts: "torch" (the default) or another of
            `secateur.runtimes.RUNTIMES`, such as "onnxruntime" or "litert".
        per_layer: every layer keeps the same share of its groups, the largest that the amounts
            allow; by default the groups of all layers compete.
        multiple_of: widths come out as multiples of this, such as 8, 16 or 32; a layer that is
            narrower than one multiple stays as it is, and what has no width is left free.
        at_least: how many groups stay in every layer (all, of a smaller one), whatever the budget.

    Raises:
        ValueError: an amount out of range or that can't be read, or no amount at all.
        TypeError: a measure that isn't known.

    Example:
        >>> Budget(flops="25%", params="1.5M")
        Budget(flops=0.25, params=1500000)
        >>> Budget(flops=1.7)
        Traceback (most recent call last):
        ValueError: Budget(flops=1.7): a fraction lies in (0, 1]; for an absolute number of ...
    """

    groups: Amount | None = None
    flops: Amount | None = None
    params: Amount | None = None
    bytes: Amount | None = None
    memory: Amount | None = None
    latency: float | str | LatencyTarget | None = None
    runtime: InitVar[str | None] = None
    per_layer: bool = False
    multiple_of: int = 1
    at_least: int = 1

    def __new__(cls, *given: Any, **named: Any) -> Budget:
        """Say what to write in the place of a measure that isn't known."""
        for name in named.keys() - cls.__dataclass_fields__.keys():
            near = get_close_matches(name, MEASURES, 1)
            hint = "flops=, two for a multiply and an add" if name == "macs" else ""
            hint = hint or (f"{near[0]}=" if near else f"one of {', '.join(MEASURES)}")
            raise TypeError(f"Budget({name}=): no such measure or option; write {hint}")
        return super().__new__(cls)

    def __post_init__(self, runtime: str | None) -> None:
        if runtime is not None and self.latency is None:
            raise ValueError(f"Budget(runtime={runtime!r}): it goes with latency=, such as '3ms'")
        if runtime is not None:
            object.__setattr__(self, "latency", as_latency_target(self.latency, runtime))
        for measure, given in self.amounts():
            amount = _read(measure, given)
            object.__setattr__(self, measure, amount)
            if measure == "latency":
                continue
            for part in amount if isinstance(amount, tuple) else (amount,):
                _check(measure, part)
            if isinstance(amount, tuple) and not (
                len(amount) == 2
                and not isinstance(amount[0], Integral)
                and isinstance(amount[1], Integral)
            ):
                raise ValueError(
                    f"Budget({measure}={amount}): a pair holds a fraction and an absolute number, "
                    "such as (0.25, 120_000)"
                )
        if not any(True for _ in self.amounts()):
            raise ValueError(f"Budget(): say how much of which measure: {', '.join(MEASURES)}")
        if not _is_count(self.at_least):
            raise ValueError(
                f"Budget(at_least={self.at_least!r}): an integer of 1 or more; a layer without any "
                "group would cut the network in two"
            )
        if not _is_count(self.multiple_of):
            raise ValueError(
                f"Budget(multiple_of={self.multiple_of!r}): an integer of 1 or more, such as 8"
            )
        if not isinstance(self.per_layer, bool):
            raise ValueError(
                f"Budget(per_layer={self.per_layer!r}): True or False; the amounts say how much"
            )

    def amounts(self) -> Iterator[tuple[str, Any]]:
        """The measures that were asked for, with their amounts as given."""
        for measure in MEASURES:
            if (amount := getattr(self, measure)) is not None:
                yield measure, amount

    def __repr__(self) -> str:
        parts = [f"{measure}={amount}" for measure, amount in self.amounts()]
        parts += ["per_layer=True"] if self.per_layer else []
        parts += [f"multiple_of={self.multiple_of}"] if self.multiple_of != 1 else []
        parts += [f"at_least={self.at_least}"] if self.at_least != 1 else []
        return f"Budget({', '.join(parts)})"

    def _floor(self) -> str:
        rounded = f", multiple_of={self.multiple_of}" if self.multiple_of > 1 else ""
        return f"at_least={self.at_least}{rounded}"

    def on(self, groups: Groups) -> Allowance | NMAllowance:
        """The budget in the units of one model, refused at once if it can't be reached.

        Raises:
            ValueError: more than the full network or less than the smallest reachable one; a
                fraction and an absolute number that disagree.
        """
        if not len(groups):
            raise ValueError(f"{self}: there are no groups; nothing can be cut")
        clocks: dict[str, Clock] = {}
        if self.latency is not None:
            target = as_latency_target(self.latency)
            clocks["latency"] = clock_for(target, groups, self.multiple_of)
        costs = {m: clocks[m].cost if m in clocks else cost(groups, m) for m, _ in self.amounts()}
        full = {m: clocks[m].table.full if m in clocks else full_costs(groups, m) for m in costs}
        limits = {m: float(_absolute(m, amount, full[m])) for m, amount in self.amounts()}
        kind = UniformAllowance if self.per_layer else Allowance
        units = steps(groups, self.multiple_of)
        allowance = kind(costs, limits, groups.layers, self.at_least, units)
        self._refuse_unreachable(allowance, full)
        everything = np.ones(len(groups))
        for measure, limit in limits.items():
            if limit == full[measure]:  # nothing need go, so no bias for folded constants comes
                limits[measure] = max(limit, costs[measure](everything))
        trials: dict[str, Trial] = {}
        if limits.get("memory", math.inf) < full.get("memory", 0):
            trials["memory"] = MemoryTrial(groups, limits["memory"])
        if limits.get("latency", math.inf) < full.get("latency", 0) and clocks["latency"].measured:
            trials["latency"] = clocks["latency"].trial
        allowance = replace(allowance, limits=limits, trials=trials)
        if any(layer.blocks for layer in groups.layers):
            return NMAllowance.of(allowance)
        return allowance

    def _refuse_unreachable(self, allowance: Allowance, full: Mapping[str, float]) -> None:
        costs, limits = allowance.costs, allowance.limits
        for measure, amount in self.amounts():
            if limits[measure] > full[measure]:
                raise ValueError(
                    f"Budget({measure}={amount}): the whole network has only "
                    f"{_words(measure, full[measure])}; there is nothing to cut"
                )
            alone = replace(allowance, costs={measure: costs[measure]})
            least = alone.spent(alone.cheapest().astype(float))[measure]
            least = least if measure == "latency" else round(least)
            if limits[measure] < least:
                raise ValueError(
                    f"Budget({measure}={amount}): {_words(measure, limits[measure])} can't be "
                    f"reached{_as_percent(measure, amount)}; with {self._floor()} in each of "
                    f"{len(allowance.layers)} layers the smallest is "
                    f"{format_measure(measure, least)} of {format_measure(measure, full[measure])} "
                    f"({measure}={math.ceil(1e4 * least / full[measure]) / 1e4:.4f})"
                )
        smallest = allowance.cheapest().astype(float)
        if not allowance.fits(smallest):
            spent = allowance.spent(smallest)
            raise ValueError(
                f"{self}: each of these can be reached, but not all at once; the network that is "
                f"smallest by all has {', '.join(_words(m, n) for m, n in spent.items())}"
            )

    def reached(self, model: nn.Module, example: Any, *, groups: Groups | None = None) -> Reached:
        """What was asked and what `model` costs, measured on it by counters of their own.

        Where a measure is above what was asked, a line of the table says the likely reason.

        Args:
            model: the small network (or any other of its kind).
            example: inputs of the shape that the budget was made for.
            groups: of the full network, which fractions refer to. Not needed for what `shrink` or
                `load` returned, which knows what the full network cost; but for a share of latency,
                or a table of it.

        Raises:
            ValueError: a fraction of an unknown whole.
        """
        lines = tuple(
            self._reached_latency(model, example, groups)
            if measure == "latency"
            else self._reached(measure, amount, model, example, groups)
            for measure, amount in self.amounts()
        )
        above = [line.measure for line in lines if not line.holds]
        return Reached(lines, reason(above, model, groups) if above else "")

    def _reached(
        self, measure: str, amount: Any, model: nn.Module, example: Any, groups: Groups | None
    ) -> Line:
        plan = plan_of(model) or Plan()
        known = plan.full.get(measure) if groups is None else full_costs(groups, measure)
        if known is None and not isinstance(amount, Integral):
            raise ValueError(
                f"{self}: a share of what? pass groups= of the full network. This "
                f"{type(model).__name__} does not know the {measure} of it: what shrink returns "
                "does, and what load makes of its file"
            )
        full = math.nan if known is None else known
        reached = _count(measure, model, example, groups)
        return Line(measure, _absolute(measure, amount, full), reached, full)

    def _reached_latency(self, model: nn.Module, example: Any, groups: Groups | None) -> Line:
        target = as_latency_target(self.latency)
        if groups is not None:
            clock = clock_for(target, groups, self.multiple_of)
            seconds, full, note = clock.seconds(model)
            return Line("latency", target.limit(full), seconds, full, note)
        if target.seconds is None or target.table is not None:
            raise ValueError(
                f"{self}: the latency of what? pass groups= of the full network, which a table is "
                "of, and which is timed in turns with the small one where a share is asked"
            )
        threads = target.threads or torch.get_num_threads()
        (seconds,) = timed(model, example, target.runtime or "torch", threads)
        return Line("latency", target.seconds, seconds, math.nan)


def _count(measure: str, model: nn.Module, example: Any, groups: Groups | None) -> int:
    if measure == "flops":
        return count_flops(model, example)
    if measure == "params":
        return count_params(model)
    if measure == "bytes":
        return count_bytes(model)
    if measure == "memory":
        return measure_peak_memory(model, example)
    if (plan := plan_of(model)) is not None:
        return sum(kept for kept, _ in plan.groups.values())
    if groups is None:
        raise ValueError(
            f"Budget(groups=): which groups of this {type(model).__name__}? pass groups="
        )
    return int(groups.on(model).alive().sum())


def _read(measure: str, amount: Any) -> Any:
    """An amount in words, or a whole number that is written as 1.5e6."""
    if measure == "latency":
        target = as_latency_target(amount)
        return amount if target is amount else target.amount
    if isinstance(amount, str):
        return read_amount(measure, amount.strip(), f"Budget({measure}={amount!r})")
    whole = isinstance(amount, float) and amount > 1 and amount.is_integer()
    return int(amount) if whole else amount


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _check(measure: str, amount: Any) -> None:
    unit = {"flops": "FLOPs", "params": "parameters"}.get(measure, measure)
    shown = f"Budget({measure}={amount!r})"
    if isinstance(amount, bool) or not isinstance(amount, Real):
        raise ValueError(
            f"{shown}: expected a fraction in (0, 1] or a whole number of {unit}, "
            f"got {type(amount).__name__}"
        )
    if isinstance(amount, Integral):
        if int(amount) < 1:
            raise ValueError(f"{shown}: an absolute number of {unit} is 1 or more")
    elif not 0 < float(amount) <= 1:
        raise ValueError(
            f"{shown}: a fraction lies in (0, 1]; for an absolute number of {unit} pass an int"
        )


def _as_percent(measure: str, amount: Any) -> str:
    """What was meant where a small number is far too small."""
    small = isinstance(amount, Integral) and int(amount) <= 100 and measure != "groups"
    return f" (a share of {amount}% is written {measure}='{amount}%')" if small else ""


def _words(measure: str, value: float) -> str:
    """Such as "1,200 params" or "3.2 ms of latency"."""
    of = " of" if measure in ("memory", "latency") else ""
    return f"{format_measure(measure, value)}{of} {measure}"


def _absolute(measure: str, amount: Any, full: float) -> float:
    """An amount as an absolute number; fractions are rounded down, but for seconds."""
    if measure == "latency":
        return as_latency_target(amount).limit(full)
    if isinstance(amount, tuple):
        share, number = _absolute(measure, amount[0], full), int(amount[1])
        if abs(share - number) > 1:
            raise ValueError(
                f"Budget({measure}={amount}): {amount[0]:.4g} of this network's {full:,} {measure} "
                f"is {share:,}, not {number:,}; give one of the two"
            )
        return min(share, number)
    if isinstance(amount, Integral):
        return int(amount)
    return math.floor(round(float(amount) * full, 6))
