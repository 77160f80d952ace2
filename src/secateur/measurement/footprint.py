"""What a network costs, all figures side by side.

A model and an example flow in; a Footprint flows out, to be printed, compared or written to a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from secateur.measurement.count import count_bytes, count_flops, count_params
from secateur.measurement.energy import measure_energy
from secateur.measurement.latency import measure_latency, synchronize, time_together
from secateur.measurement.memory import measure_peak_memory
from secateur.measurement.units import (
    format_bytes,
    format_count,
    format_flops,
    format_joules,
    format_seconds,
)
from secateur.utils.forward import Example, device_of, evaluating, forward


@dataclass(frozen=True)
class Footprint:
    """What one network costs on one example; None is a figure that could not be had.

    Args:
        params: Parameters, tied weights once.
        flops: Floating-point operations of one forward, two a multiply-add.
        bytes: Bytes of parameters and buffers.
        latency: Median seconds of one forward.
        latency_spread: Interquartile range of those seconds.
        peak_memory: Peak bytes of live tensors during one forward, weights included.
        energy: Joules of one forward, from a counter of the machine.

    Example:
        >>> print(Footprint(params=1_000, flops=2_000_000, bytes=4_096, latency=0.0032))
        parameters   1 k
        FLOPs        2 MFLOPs
        size         4 KiB
        latency      3.2 ms
        peak memory  unavailable
        energy       unavailable
    """

    params: int
    flops: int
    bytes: int
    latency: float | None = None
    latency_spread: float | None = None
    peak_memory: int | None = None
    energy: float | None = None

    def ratio(self, other: Footprint) -> dict[str, float | None]:
        """Return this footprint's figures as fractions of another's: 0.25 is a quarter of it.

        Args:
            other: The footprint to compare with, usually the full-size network's.

        Returns:
            A fraction for each figure but the spread; None where either is unavailable or the
            other is 0.

        Example:
            >>> Footprint(250, 500, 1000).ratio(Footprint(1000, 1000, 4000))["params"]
            0.25
        """
        mine, theirs = asdict(self), asdict(other)
        return {
            name: mine[name] / theirs[name] if mine[name] is not None and theirs[name] else None
            for name in mine
            if name != "latency_spread"
        }

    def __str__(self) -> str:
        latency = format_seconds(self.latency)
        if self.latency_spread is not None:
            latency += f" (quartiles {format_seconds(self.latency_spread)} apart)"
        rows = {
            "parameters": format_count(self.params),
            "FLOPs": format_flops(self.flops),
            "size": format_bytes(self.bytes),
            "latency": latency,
            "peak memory": format_bytes(self.peak_memory),
            "energy": format_joules(self.energy),
        }
        return "\n".join(f"{name:<11}  {value}" for name, value in rows.items())


def measure(
    model: nn.Module,
    example: Example,
    *,
    latency: bool = True,
    runtime: str = "torch",
    repeats: int = 50,
    warmup: int = 5,
) -> Footprint:
    """Return what a network costs on an example: counted exactly, and measured on this machine.

    The model runs in eval mode without gradients; afterwards every submodule has the training mode
    that it had.

    Args:
        model: Any module. On the meta device only parameters, FLOPs and bytes are counted.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.
        latency: Whether to run the model repeatedly for latency and energy.
        runtime: What the latency is of: "torch" or another of `secateur.runtimes.RUNTIMES`.
        repeats: Timed forwards.
        warmup: Forwards that run before and are not timed.

    Returns:
        A Footprint; what could not be had is None.

    Raises:
        TypeError: The example is none of the accepted kinds.
        ValueError: Model and example are on different devices, or repeats < 1.

    Example:
        >>> import torch
        >>> cost = measure(nn.Linear(3, 2), torch.zeros(1, 3), latency=False)
        >>> cost.params, cost.flops, cost.bytes
        (8, 12, 32)
    """
    real = device_of(model, example).type != "meta"
    timed = None
    if latency and real:
        timed = measure_latency(model, example, runtime=runtime, repeats=repeats, warmup=warmup)
    return Footprint(
        params=count_params(model),
        flops=count_flops(model, example),
        bytes=count_bytes(model),
        latency=timed.median if timed else None,
        latency_spread=timed.spread if timed else None,
        peak_memory=measure_peak_memory(model, example) if real else None,
        energy=measure_energy(model, example) if timed else None,
    )


def measure_together(models: Sequence[nn.Module], example: Example) -> list[Footprint]:
    """Return what each of several networks costs on one example, timed in turns.

    What slows the machine for a while then slows all of them, and the ratios of their latencies
    stay true (`time_together`).

    Args:
        models: As `measure` takes them, all on one device.
        example: As `measure` takes it, for all of them.

    Returns:
        One Footprint a model, in order; what could not be had is None.

    Raises:
        TypeError: The example is none of the accepted kinds.
        ValueError: A model and the example are on different devices.

    Warns:
        RuntimeWarning: The device is busy, so that measuring takes longer.

    Example:
        >>> import torch
        >>> networks = nn.Linear(512, 512), nn.Linear(512, 8)
        >>> full, small = measure_together(networks, torch.zeros(64, 512))
        >>> small.ratio(full)["params"], small.ratio(full)["latency"] < 1
        (0.015625, True)
    """
    found = [measure(model, example, latency=False) for model in models]
    devices = [device_of(model, example) for model in models]
    if any(device.type == "meta" for device in devices):
        return found
    with ExitStack() as modes, torch.inference_mode():
        for model in models:
            modes.enter_context(evaluating(model))
        runs = [forward(model, example) for model in models]
        times = time_together(runs, wait=lambda: synchronize(devices[0]), patience=2)
    return [
        replace(
            one,
            latency=time.median,
            latency_spread=time.spread,
            energy=measure_energy(model, example),
        )
        for one, model, time in zip(found, models, times, strict=True)
    ]
