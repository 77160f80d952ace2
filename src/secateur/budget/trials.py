"""Choosing groups by what the network without the others really takes: memory and latency.

In: an allowance, which knows costs by a model of them, and a `Trial` for each measure that can be
tried out. Out: groups to keep such that every trial holds.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from torch import nn

from secateur.budget.allowance import Allowance
from secateur.budget.n_of_m import NMAllowance
from secateur.budget.target import LatencyTarget
from secateur.costs.timing import inputs, without
from secateur.groups import Groups
from secateur.measurement import measure_peak_memory, prepare, time_together
from secateur.measurement.latency import synchronize
from secateur.measurement.runtimes import using_threads
from secateur.utils.forward import device_of

ATTEMPTS = 12  # networks that are tried out at most


class Trial(Protocol):
    """Says what share of what was asked a network takes: 1 is exactly all of it."""

    @property
    def groups(self) -> Groups:
        """The groups of the full network."""
        ...

    @property
    def aim(self) -> tuple[float, float]:
        """A network takes no more than the second, and one between them is good enough."""
        ...

    def __call__(self, network: nn.Module) -> float: ...


@dataclass(frozen=True, eq=False)
class MemoryTrial:
    """The peak memory of a network, by the counter that `Budget.reached` uses too."""

    groups: Groups
    limit: float
    aim: tuple[float, float] = (0.98, 1.0)

    def __call__(self, network: nn.Module) -> float:
        return measure_peak_memory(network, inputs(self.groups)) / self.limit


@dataclass(eq=False)
class LatencyTrial:
    """The latency of a network in its runtime; where a fraction is asked, of the full one's now.

    The full network is then measured in turns with the other: what slows the machine slows both.

    Attributes:
        full: seconds that the full network takes, by the table or the last trial.
    """

    groups: Groups
    target: LatencyTarget
    runtime: str
    threads: int
    full: float
    aim: tuple[float, float] = (0.90, 0.96)
    _run_full: Callable[[], Any] | None = field(default=None, init=False, repr=False)

    def __call__(self, network: nn.Module) -> float:
        return self.seconds(network) / self.target.limit(self.full)

    def seconds(self, network: nn.Module) -> float:
        """The median time of one forward of `network`."""
        example = inputs(self.groups)
        device = device_of(network, example)
        with using_threads(self.threads):
            runs = [self._prepared(network, example)]
            if self.target.share is not None:
                if self._run_full is None:
                    everything = np.ones(len(self.groups), bool)
                    self._run_full = self._prepared(without(self.groups, everything), example)
                runs.append(self._run_full)
            found = time_together(runs, rounds=20, wait=lambda: synchronize(device))
        if self.target.share is not None:
            self.full = found[1].median
        return found[0].median

    def _prepared(self, network: nn.Module, example: Any) -> Callable[[], Any]:
        return prepare(copy.deepcopy(network), example, self.runtime, threads=self.threads)

    def forget(self) -> None:
        """Let go of the copy of the full network."""
        self._run_full = None

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not what a runtime has opened."""
        return {**vars(self), "_run_full": None}


def choose(
    allowance: Allowance | NMAllowance,
    saliency: np.ndarray,
    trials: Mapping[str, Trial],
) -> np.ndarray:
    """Choose the groups to keep for good, bool of shape (m,), by trial.

    The limit of a measure that the chosen network misses is moved in proportion to how far it is
    off, until all trials are within their aims; the network that comes closest is taken.

    Args:
        allowance: the budget.
        saliency: what groups are worth, (m,).
        trials: measure -> trial, one at least.

    Warns:
        UserWarning: the smallest network that can be chosen is still above what was asked.
    """
    groups = next(iter(trials.values())).groups
    limits = dict(allowance.limits)
    bounds = dict.fromkeys(trials, (0.0, np.inf))  # limits that held, that didn't
    held: list[tuple[bool, float, np.ndarray]] = []  # within its aim, share, groups
    tried: dict[bytes, dict[str, float]] = {}
    for _ in range(ATTEMPTS):
        kept = _limited(allowance, limits).choose(saliency)
        key = kept.tobytes()
        again = key in tried
        if not again:
            network = without(groups, kept)
            tried[key] = {measure: trial(network) for measure, trial in trials.items()}
        shares = tried[key]
        within = all(shares[measure] <= trial.aim[1] for measure, trial in trials.items())
        near = any(shares[measure] >= trial.aim[0] for measure, trial in trials.items())
        if max(shares.values()) <= 1:
            held.append((within, max(shares.values()), kept))
        if within and (near or again):  # again: another measure decides, more room changes nothing
            break
        limits |= _moved(limits, bounds, shares, trials)
    if not held:
        return _smallest(allowance, trials, groups)
    return max(held, key=lambda one: one[:2])[2]


def _moved(
    limits: Mapping[str, float],
    bounds: dict[str, tuple[float, float]],
    shares: Mapping[str, float],
    trials: Mapping[str, Trial],
) -> dict[str, float]:
    """New limits, between one that held and one that didn't."""
    found = {}
    for measure, share in shares.items():
        low, high = bounds[measure]
        limit = limits[measure]
        low, high = (
            (low, min(high, limit)) if share > trials[measure].aim[1] else (max(low, limit), high)
        )
        bounds[measure] = low, high
        aimed = limit * sum(trials[measure].aim) / 2 / share
        if not low < aimed < high:
            aimed = (low + high) / 2 if 0 < low < high < np.inf else min(limit, high) * 0.9
        found[measure] = aimed
    return found


def _limited(
    allowance: Allowance | NMAllowance, limits: dict[str, float]
) -> Allowance | NMAllowance:
    if isinstance(allowance, NMAllowance):
        return NMAllowance.of(replace(allowance.whole, limits=limits))
    return replace(allowance, limits=limits)


def _smallest(
    allowance: Allowance | NMAllowance,
    trials: Mapping[str, Trial],
    groups: Groups,
) -> np.ndarray:
    """The cheapest network of all, with a warning where that is above what was asked, too."""
    cheapest = allowance.cheapest()
    network = without(groups, cheapest)
    for measure, trial in trials.items():
        share = trial(network)
        if share > 1:
            warnings.warn(
                f"{measure}: the smallest network takes {share:.0%} of what was asked when it is "
                "tried out; a budget that is larger, or a quieter device, is needed",
                stacklevel=4,
            )
    return cheapest


def kept_in(network: nn.Module, groups: Groups) -> np.ndarray:
    """Which groups a network still has, bool of shape (m,), by the plan that it was cut by."""
    plan = getattr(network, "secateur", None)
    if plan is None or groups.coupling is None:
        return groups.on(network).alive().cpu().numpy()
    kept = np.ones(len(groups), bool)
    for slot in groups.coupling.slots:
        for dim, entries in enumerate(slot.entries):
            indices = plan.kept.get(slot.names[0], {}).get(dim)
            if entries is not None and indices is not None:
                gone = np.delete(entries, list(indices))
                kept[gone[gone >= 0]] = False
    for gone in groups.coupling.absent:
        if gone.module in plan.absent:
            kept[list(gone.groups)] = False
    return kept
