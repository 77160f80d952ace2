"""How long one forward takes: the median of repeated runs, and how far they spread.

A model and an example flow in; seconds flow out.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from secateur.runtimes import prepare
from secateur.utils.forward import Example, device_of, evaluating, forward


class Latency(NamedTuple):
    """Seconds for one forward: the median, and the distance between the quartiles."""

    median: float
    spread: float


def measure_latency(
    model: nn.Module,
    example: Example,
    *,
    runtime: str = "torch",
    repeats: int = 50,
    warmup: int = 5,
) -> Latency:
    """Return the median time of one forward in eval mode, with its interquartile range.

    Runs under `torch.inference_mode`, on as many threads as torch is set to use. On an accelerator
    the device is synchronised before the clock is read.

    Args:
        model: Any module.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.
        runtime: What runs it: "torch" or another of `secateur.runtimes.RUNTIMES`.
        repeats: Timed forwards, at least 1.
        warmup: Forwards that run first and are not timed.

    Returns:
        `Latency(median, spread)` in seconds.

    Raises:
        ValueError: repeats < 1, warmup < 0, or model and example on different devices, or on the
            meta device, where there is nothing to time; an unknown runtime.
        ImportError: The runtime is missing.
        RuntimeError: The runtime can't take the model.

    Example:
        >>> measure_latency(nn.Linear(3, 2), torch.zeros(1, 3), repeats=3).median > 0
        True
    """
    run = forward(model, example)
    device = device_of(model, example)
    if device.type == "meta":
        raise ValueError(
            "measure_latency: the model is on the meta device, where nothing is computed; "
            "move it to a real one, or measure with latency=False."
        )
    with evaluating(model), torch.inference_mode(runtime == "torch"):
        run = run if runtime == "torch" else prepare(model, example, runtime)
        return time_calls(run, repeats=repeats, warmup=warmup, wait=lambda: synchronize(device))


def time_calls(
    run: Callable[[], Any],
    *,
    repeats: int = 50,
    warmup: int = 5,
    wait: Callable[[], None] = lambda: None,
) -> Latency:
    """Return the median time of a call and its interquartile range, in seconds.

    Args:
        run: What is timed.
        repeats: Timed calls, at least 1.
        warmup: Calls that run first and are not timed.
        wait: Called before the clock is read; returns when nothing is under way any more.

    Raises:
        ValueError: repeats < 1 or warmup < 0.

    Example:
        >>> time_calls(lambda: None, repeats=3).median < 1
        True
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(
            f"repeats={repeats}, warmup={warmup}: repeats must be at least 1 and warmup at least 0."
        )
    for _ in range(warmup):
        run()
    times = [_seconds(run, wait) for _ in range(repeats)]
    return _latency(times)


STEADY = 0.2  # quartiles may lie this far apart, relative to the median
PATIENCE = 8  # how many times as long a busy device is measured


def time_together(
    runs: Sequence[Callable[[], Any]],
    *,
    rounds: int = 12,
    seconds: float = 0.004,
    wait: Callable[[], None] = lambda: None,
    patience: int = PATIENCE,
) -> list[Latency]:
    """Return the median time of each of several calls, measured in turns.

    What slows the machine for a while then slows all of them, and ratios stay true. Where the
    quartiles of one lie more than 20% of its median apart, the device is busy: a warning says so,
    and all are measured longer. If it stays busy, the fastest tenth of the calls counts: those
    that nothing else has interrupted.

    Args:
        runs: What is timed.
        rounds: How often each has its turn.
        seconds: About how long a turn lasts; the first call of a turn isn't timed.
        wait: Called before the clock is read; returns when nothing is under way any more.
        patience: How many times as long to go on while the device is busy.

    Returns:
        One `Latency(median, spread)` a call, in seconds, of the calls that count.

    Warns:
        RuntimeWarning: the device is busy.

    Example:
        >>> import time
        >>> one, two = time_together([lambda: time.sleep(0.001), lambda: time.sleep(0.003)])
        >>> 1.5 < two.median / one.median < 6
        True
    """
    times: list[list[float]] = [[] for _ in runs]
    calls = []
    for run in runs:
        run()
        calls.append(min(50, max(3, round(seconds / max(_seconds(run, wait), 1e-9)))))
    for turn in range(patience):
        for _ in range(rounds):
            for run, count, mine in zip(runs, calls, times, strict=True):
                run()
                mine += [_seconds(run, wait) for _ in range(count)]
        found = [_latency(mine) for mine in times]
        worst = max(one.spread / one.median for one in found)
        if worst <= STEADY:
            return found
        if turn == 0:
            warnings.warn(
                f"the device is busy: quartiles lie {worst:.0%} of the median apart; measuring "
                "longer",
                RuntimeWarning,
                stacklevel=2,
            )
    return [_latency(sorted(mine)[: max(len(mine) // 10, 1)]) for mine in times]


def _latency(times: list[float]) -> Latency:
    return Latency(statistics.median(times), _interquartile_range(times))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _seconds(run: Callable[[], Any], wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def _interquartile_range(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return upper - lower
