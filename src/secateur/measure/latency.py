"""How long one forward takes: the median of repeated runs, and how far they spread.

A model and an example flow in; seconds flow out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from secateur.measure.running import Example, device_of, evaluating, forward


class Latency(NamedTuple):
    """Seconds for one forward: the median, and the distance between the quartiles."""

    median: float
    spread: float


def measure_latency(
    model: nn.Module, example: Example, *, repeats: int = 50, warmup: int = 5
) -> Latency:
    """Return the median time of one forward in eval mode, with its interquartile range.

    Runs under `torch.inference_mode`, on as many threads as torch is set to use. On an accelerator
    the device is synchronised before the clock is read.

    Args:
        model: Any module.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.
        repeats: Timed forwards, at least 1.
        warmup: Forwards that run first and are not timed.

    Returns:
        `Latency(median, spread)` in seconds.

    Raises:
        ValueError: repeats < 1, warmup < 0, or model and example on different devices, or on the
            meta device, where there is nothing to time.

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
    with evaluating(model), torch.inference_mode():
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
