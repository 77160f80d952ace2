"""All runtimes that are known here, and how one is found by its name or by a file's."""

from __future__ import annotations

import os
from pathlib import Path

from secateur.runtimes.executorch_runtime import ExecuTorch
from secateur.runtimes.interface import Runtime
from secateur.runtimes.litert_runtime import LiteRt
from secateur.runtimes.onnx_runtime import OnnxRuntime
from secateur.runtimes.openvino_runtime import OpenVino
from secateur.runtimes.torch_export import TorchExport

EAGER = {"torch": (12, 4), "torch.compile": (4, 2)}  # without a file: name -> Runtime.trials
EXPORTED: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (OnnxRuntime(), OpenVino(), LiteRt(), ExecuTorch(), TorchExport())
}
RUNTIMES = (*EAGER, *EXPORTED)


def check_runtime(runtime: str) -> None:
    """Refuse a runtime that isn't known or isn't installed.

    Raises:
        ValueError: It isn't one of `RUNTIMES`.
        ImportError: Its package is missing.

    Example:
        >>> check_runtime("tensorrt")
        Traceback (most recent call last):
        ValueError: runtime='tensorrt': known are torch, torch.compile, onnxruntime, openvino, ...
    """
    if runtime not in RUNTIMES:
        raise ValueError(
            f"runtime={runtime!r}: known are {', '.join(RUNTIMES)}; what runs elsewhere can be "
            "budgeted by a table that was made there (docs/latency-tables.md)"
        )
    if runtime in EXPORTED:
        EXPORTED[runtime].require()


def runtime_of(path: str | os.PathLike[str]) -> Runtime:
    """The runtime whose files are named so.

    Raises:
        ValueError: None is; the message lists the suffixes.

    Example:
        >>> runtime_of("small.tflite").title
        'LiteRT'
    """
    found = {runtime.suffix: runtime for runtime in EXPORTED.values()}
    if (suffix := Path(path).suffix) not in found:
        known = ", ".join(f"{suffix} ({one.title})" for suffix, one in found.items())
        raise ValueError(f"{path}: which runtime is it for? name it by its suffix: {known}")
    return found[suffix]


def trials(runtime: str) -> tuple[int, int]:
    """How many thinner networks a latency table times in it, and how many judge the table."""
    return EXPORTED[runtime].trials if runtime in EXPORTED else EAGER[runtime]
