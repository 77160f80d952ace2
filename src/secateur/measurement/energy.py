"""How much energy one forward takes, from a counter of the machine; without a counter, nothing.

A model and an example flow in; joules flow out, or None where no counter can be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from secateur.measurement.latency import synchronize
from secateur.utils.forward import Example, device_of, evaluating, forward

POWERCAP = Path("/sys/class/powercap")


def measure_energy(
    model: nn.Module, example: Example, *, seconds: float = 1.0, powercap: Path = POWERCAP
) -> float | None:
    """Return the joules of one forward by the machine's own counter, or None where it has none.

    On a CPU the RAPL counters of all processor packages are read, on CUDA the energy counter of
    NVML (needs the package `nvidia-ml-py`). Both count everything that runs on the device, the idle
    power included: measure on a quiet machine.

    Args:
        model: Any module.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.
        seconds: How long to repeat the forward, at least once; the counters move about every
            millisecond.
        powercap: The folder of the RAPL counters.

    Returns:
        Joules for one forward, or None: never an estimate.

    Raises:
        ValueError: Model and example are on different devices.

    Example:
        >>> joules = measure_energy(nn.Linear(3, 2), torch.zeros(1, 3), seconds=0.01)
        >>> joules is None or joules >= 0
        True
    """
    run = forward(model, example)
    device = device_of(model, example)
    counter = find_counter(device, powercap)
    if counter is None:
        return None
    with evaluating(model), torch.inference_mode():
        run()
        synchronize(device)
        start, used = time.perf_counter(), counter()
        forwards = 0
        while forwards == 0 or time.perf_counter() - start < seconds:
            run()
            synchronize(device)
            forwards += 1
        return (counter() - used) / forwards


def find_counter(device: torch.device, powercap: Path = POWERCAP) -> Callable[[], float] | None:
    """Return a function that reads the joules a device has used so far, or None without one."""
    if device.type == "cuda":
        return _nvml_counter(device)
    if device.type == "cpu":
        packages = [_RaplPackage(folder) for folder in _rapl_packages(powercap)]
        if packages:
            return lambda: sum(package.joules() for package in packages)
    return None


def _rapl_packages(powercap: Path) -> list[Path]:
    """The folders of whole processor packages, whose parts (cores, memory) are counted in them."""
    return [folder for folder in sorted(powercap.glob("*-rapl:*")) if _is_readable_package(folder)]


def _is_readable_package(folder: Path) -> bool:
    try:
        int((folder / "energy_uj").read_text())
        return (folder / "name").read_text().startswith("package")
    except (OSError, ValueError):  # often only root may read it, or the domain is switched off
        return False


class _RaplPackage:
    """The energy counter of one processor package, carried on where it wraps around."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._counter.read_text())
        self._microjoules = 0

    def joules(self) -> float:
        """Joules since this object was made, if it is read more often than the counter wraps."""
        now = int(self._counter.read_text())
        self._microjoules += (now - self._last) % (self._range + 1)
        self._last = now
        return self._microjoules / 1e6


def _nvml_counter(device: torch.device) -> Callable[[], float] | None:
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
