"""What a figure was measured on: processor, threads, versions; and which other machines are alike.

Nothing flows in; short texts by name flow out.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from secateur.runtimes import EXPORTED

HARDWARE = ("processor", "system", "accelerator")
VERSIONS = ("secateur", *(one.distribution for one in EXPORTED.values() if one.runners))


def machine() -> dict[str, str]:
    """Return the machine and the versions that a measurement depends on.

    Returns:
        Name -> text, in the order in which to show them.

    Example:
        >>> machine()["torch"] == torch.__version__
        True
    """
    facts = {
        "processor": f"{_processor()}, {_cores()} cores",
        "threads": f"{torch.get_num_threads()} of torch",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    versions = {package: _version(package) for package in VERSIONS}
    return facts | {package: version for package, version in versions.items() if version}


def hardware(facts: Mapping[str, str]) -> dict[str, str]:
    """The part of `machine()` that says whether two machines are alike.

    Example:
        >>> hardware(machine()) == hardware(machine())
        True
    """
    return {name: facts[name] for name in HARDWARE if name in facts}


def machine_differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What two machines differ in, in words; the versions of what ran there don't count.

    Example:
        >>> machine_differences({"processor": "A, 2 cores"}, {"processor": "B, 8 cores"})
        ['processor: A, 2 cores / B, 8 cores']
    """
    mine, theirs = hardware(one), hardware(other)
    return [
        f"{name}: {mine.get(name, 'none')} / {theirs.get(name, 'none')}"
        for name in HARDWARE
        if mine.get(name) != theirs.get(name)
    ]


def _version(package: str) -> str:
    """The installed version, or "" where the package is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
