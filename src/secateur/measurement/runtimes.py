"""What runs a network: torch as it is, torch.compile, or ONNX Runtime.

A model and an example flow in; a function without arguments flows out, which is one forward.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.utils.forward import Example, arguments, device_of, evaluating, forward, inputs_of

RUNTIMES = ("torch", "torch.compile", "onnxruntime")


def check_runtime(runtime: str) -> None:
    """Refuse a runtime that isn't known or isn't installed.

    Raises:
        ValueError: It isn't one of `RUNTIMES`.
        ImportError: Its package is missing.

    Example:
        >>> check_runtime("tensorrt")
        Traceback (most recent call last):
        ValueError: runtime='tensorrt': known are torch, torch.compile, onnxruntime; what runs ...
    """
    if runtime not in RUNTIMES:
        raise ValueError(
            f"runtime={runtime!r}: known are {', '.join(RUNTIMES)}; what runs elsewhere can be "
            "budgeted by a table that was made there (docs/latency-tables.md)"
        )
    if runtime == "onnxruntime":
        needed = ("onnx", "onnxscript", "onnxruntime")
        if missing := [name for name in needed if find_spec(name) is None]:
            raise ImportError(
                f"runtime='onnxruntime' needs {', '.join(missing)}: pip install secateur[export]"
            )


def prepare(
    model: nn.Module, example: Example, runtime: str = "torch", *, threads: int | None = None
) -> Callable[[], Any]:
    """Return a function that runs the model once on the example, as a runtime does it.

    Args:
        model: Any module; put into eval mode. It must not change while the function is used.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.
        runtime: "torch", "torch.compile" or "onnxruntime" (on the CPU).
        threads: Of ONNX Runtime, 1 or more; torch uses those it is set to (`using_threads`).

    Raises:
        ValueError: An unknown runtime, or a model for ONNX Runtime that is not on the CPU.
        ImportError: ONNX Runtime is missing.
        RuntimeError: The runtime can't take the model.

    Example:
        >>> prepare(nn.Linear(3, 2), torch.zeros(1, 3))().shape
        torch.Size([1, 2])
    """
    check_runtime(runtime)
    model.eval()
    if runtime == "onnxruntime":
        return _in_onnxruntime(model, example, threads or torch.get_num_threads())
    run = forward(model, example)
    if runtime == "torch.compile":
        compiled = torch.compile(model, dynamic=False)
        args, kwargs = arguments(example)
        run = lambda: compiled(*args, **kwargs)  # noqa: E731

    def once() -> Any:
        with torch.inference_mode():
            return run()

    once()  # what the first call prepares is not part of a latency
    return once


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads inside; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch.onnx prints, warns and logs while it works."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def session(path: str | os.PathLike[str], threads: int = 0) -> Any:
    """Open an ONNX file in ONNX Runtime, on the CPU; 0 threads: as many as it likes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )


def translate(model: nn.Module, example: Example, path: Path, dynamic_shapes: Any = None) -> None:
    """Write a model as one ONNX file, quietly; torch.onnx's errors come through as they are."""
    args, kwargs = arguments(example)
    with torch.no_grad(), quiet():
        torch.onnx.export(
            model,
            args,
            os.fspath(path),
            kwargs=kwargs,
            dynamo=True,
            external_data=False,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )


def _in_onnxruntime(model: nn.Module, example: Example, threads: int) -> Callable[[], Any]:
    device = device_of(model, example)
    if device.type != "cpu":
        raise ValueError(f"runtime='onnxruntime' runs on the CPU; the model is on {device}")
    _, kwargs = arguments(example)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with evaluating(model):
                translate(model, example, path)
        except Exception as error:
            raise RuntimeError(
                f"runtime='onnxruntime': torch.onnx could not translate {type(model).__name__}: "
                f"{error}"
            ) from error
        opened = session(path, threads)
    tensors = inputs_of(example)
    names = [value.name for value in opened.get_inputs()]
    named = {name: value for name, value in kwargs.items() if isinstance(value, torch.Tensor)}
    feeds = {
        name: named.get(name, tensor).detach().numpy()
        for name, tensor in zip(names, tensors, strict=True)
    }
    return lambda: opened.run(None, feeds)
