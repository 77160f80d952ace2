"""Choosing groups by what the network without the others really takes: memory and latency.

In: an allowance, which knows costs by a model of them, and has a `Trial` for each measure that can
be tried out. Out: groups to keep such that every trial holds.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from secateur.budget.target import LatencyTarget
from secateur.costs.timing import inputs, without
from secateur.groups import Groups
from secateur.measurement import measure_peak_memory, time_together
from secateur.measurement.latency import synchronize
from secateur.runtimes import prepare, using_threads
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

    def begin(self) -> Callable[[nn.Module], float]:
        """What measures the networks of one choice."""
        ...


class Limited(Protocol):
    """What `choose_by_trial` asks of an allowance."""

    @property
    def limits(self) -> Mapping[str, float]: ...

    @property
    def trials(self) -> Mapping[str, Trial]: ...

    def limited(self, limits: Mapping[str, float]) -> Limited:
        """The same with other limits, by its costs alone."""
        ...

    def choose(self, saliency: np.ndarray) -> np.ndarray: ...

    def cheapest(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class MemoryTrial:
    """The peak memory of a network, by the counter that `Budget.reached` uses too."""

    groups: Groups
    limit: float
    aim: tuple[float, float] = (0.98, 1.0)

    def begin(self) -> Callable[[nn.Module], float]:
        return lambda network: measure_peak_memory(network, inputs(self.groups)) / self.limit


@dataclass(frozen=True, eq=False)
class LatencyTrial:
    """The latency of a network in its runtime; where a fraction is asked, of the full one's now.

    The full network is then measured in turns with the other: what slows the machine slows both.

    Attributes:
        full: seconds that the full network takes, by the table.
    """

    groups: Groups
    target: LatencyTarget
    runtime: str
    threads: int
    full: float
    aim: tuple[float, float] = (0.90, 0.96)

    def begin(self) -> Callable[[nn.Module], float]:
        seconds = self.timer()

        def share(network: nn.Module) -> float:
            own, full = seconds(network)
            return own / self.target.limit(full)

        return share

    def timer(self) -> Callable[[nn.Module], tuple[float, float]]:
        """What gives the median time of one forward of a network, and of the full one."""
        example, beside = inputs(self.groups), []
        if self.target.share is not None:
            whole = without(self.groups, np.ones(len(self.groups), bool))
            with using_threads(self.threads):
                beside = [prepare(whole, example, self.runtime, threads=self.threads)]

        def seconds(network: nn.Module) -> tuple[float, float]:
            own, *others = timed(network, example, self.runtime, self.threads, beside)
            return own, others[0] if others else self.full

        return seconds


def timed(
    network: nn.Module,
    example: Any,
    runtime: str,
    threads: int,
    beside: Sequence[Callable[[], Any]] = (),
) -> list[float]:
    """The median seconds of one forward of a network, and of what runs in turns with it."""
    device = device_of(network, example)
    with using_threads(threads):
        run = prepare(copy.deepcopy(network), example, runtime, threads=threads)
        found = time_together([run, *beside], rounds=20, wait=lambda: synchronize(device))
    return [time.median for time in found]


def choose_by_trial(allowance: Limited, saliency: np.ndarray) -> np.ndarray:
    """Choose the groups to keep for good, bool of shape (m,), by trial.

    The limit of a measure that the chosen network misses is moved in proportion to how far it is
    off, until all trials are within their aims; the network that comes closest is taken.

    Args:
        allowance: the budget, with one trial at least.
        saliency: what groups are worth, (m,).

    Warns:
        UserWarning: the smallest network that can be chosen is still above what was asked.
    """
    trials = allowance.trials
    groups = next(iter(trials.values())).groups
    measured = {measure: trial.begin() for measure, trial in trials.items()}
    limits = dict(allowance.limits)
    bounds = dict.fromkeys(trials, (0.0, np.inf))  # limits that held, that didn't
    held: list[tuple[bool, float, np.ndarray]] = []  # within its aim, share, groups
    tried: dict[bytes, dict[str, float]] = {}
    for _ in range(ATTEMPTS):
        kept = allowance.limited(limits).choose(saliency)
        key = kept.tobytes()
        again = key in tried
        if not again:
            network = without(groups, kept)
            tried[key] = {measure: share(network) for measure, share in measured.items()}
        shares = tried[key]
        within = all(shares[measure] <= trial.aim[1] for measure, trial in trials.items())
        near = any(shares[measure] >= trial.aim[0] for measure, trial in trials.items())
        if max(shares.values()) <= 1:
            held.append((within, max(shares.values()), kept))
        if within and (near or again):  # again: another measure decides, more room changes nothing
            break
        limits |= _moved(limits, bounds, shares, trials)
    if held:
        return max(held, key=lambda one: one[:2])[2]
    cheapest = allowance.cheapest()
    network = without(groups, cheapest)
    for measure, share in measured.items():
        _warn_if_above(measure, share(network))
    return cheapest


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


def _warn_if_above(measure: str, share: float) -> None:
    """Say so where even the smallest network is above what was asked."""
    if share > 1:
        warnings.warn(
            f"{measure}: the smallest network takes {share:.0%} of what was asked when it is "
            "tried out; a budget that is larger, or a quieter device, is needed",
            stacklevel=4,
        )
