"""Running a network, or the file that was made of it, in any runtime.

A model or a file and an example flow in; outputs flow out, or a function without arguments which
is one forward.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.runtimes.capture import capture, plain_words
from secateur.runtimes.interface import Program, Runtime
from secateur.runtimes.table import EXPORTED, check_runtime, runtime_of
from secateur.utils.forward import Example, arguments, device_of, forward, tensors_of


def prepare(
    model: nn.Module, example: Example, runtime: str = "torch", *, threads: int | None = None
) -> Callable[[], Any]:
    """Return a function that runs the model once on the example, as a runtime does it.

    Args:
        model: Any module; put into eval mode. It must not change while the function is used.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.
        runtime: "torch", "torch.compile", or one that reads files, such as "onnxruntime" (on the
            CPU).
        threads: Of a runtime that reads files, 1 or more; torch uses those it is set to
            (`using_threads`).

    Raises:
        ValueError: An unknown runtime, or a model for one of files that is not on the CPU.
        ImportError: The runtime is missing.
        RuntimeError: The runtime can't take the model.

    Example:
        >>> prepare(nn.Linear(3, 2), torch.zeros(1, 3))().shape
        torch.Size([1, 2])
    """
    check_runtime(runtime)
    model.eval()
    if runtime in EXPORTED:
        return _exported(model, example, EXPORTED[runtime], threads or torch.get_num_threads())
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


def run(path: str | os.PathLike[str], *inputs: Tensor, **named: Tensor) -> list[Tensor]:
    """Run an exported file once on the CPU, in the runtime of its suffix, and return its outputs.

    Args:
        path: The file, such as "small.onnx".
        *inputs: Tensors for the file's inputs, in order.
        **named: Tensors for inputs by their names.

    Returns:
        The outputs, in the file's order.

    Raises:
        ImportError: The runtime is missing.
        ValueError: An unknown suffix; or there are more or fewer tensors than the file has inputs.

    Example:
        >>> import tempfile
        >>> import secateur as sc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = sc.export(nn.Flatten(), torch.zeros(1, 3, 2), f"{folder}/small.pt2")
        ...     run(path, torch.ones(2, 3, 2))[0].shape
        torch.Size([2, 6])
    """
    program = opened(path)
    found = program.bind(in_order(program, inputs, named))()
    return [torch.as_tensor(array).clone() for array in found]


def prepare_file(
    path: str | os.PathLike[str], example: Example, threads: int
) -> Callable[[], Sequence[Any]]:
    """A function without arguments that runs a file once on the example; 0 threads: its choice."""
    program = opened(path, threads)
    args, kwargs = arguments(example)
    named = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    return program.bind(in_order(program, tensors_of(args), named))


def opened(path: str | os.PathLike[str], threads: int = 0) -> Program:
    """The file, opened by the runtime of its suffix."""
    runtime = runtime_of(path)
    runtime.require(to_write=False)
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path}")
    return runtime.load(Path(path), threads)


def in_order(program: Program, inputs: Sequence[Tensor], named: dict[str, Tensor]) -> list[Tensor]:
    """Tensors in the order of a program's inputs: those by name in their places, others between.

    Raises:
        ValueError: they aren't those that the program takes.
    """
    unnamed = [name for name in program.inputs if name not in named]
    if len(unnamed) != len(inputs) or len(unnamed) + len(named) != len(program.inputs):
        given = [f"{len(inputs)} in order"] if inputs else []
        raise ValueError(
            f"the file takes other inputs than were given:\n"
            f"  takes: {', '.join(program.inputs)}\n"
            f"  given: {', '.join([*given, *named])}"
        )
    found = dict(zip(unnamed, inputs, strict=True)) | named
    return [found[name] for name in program.inputs]


def _exported(
    model: nn.Module, example: Example, runtime: Runtime, threads: int
) -> Callable[[], Any]:
    device = device_of(model, example)
    if device.type != "cpu":
        raise ValueError(f"runtime={runtime.name!r} runs on the CPU; the model is on {device}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{runtime.suffix}"
        try:
            network = capture(model, example)
            runtime.write(network, path)
        except Exception as error:
            raise RuntimeError(
                f"runtime={runtime.name!r}: could not translate {type(model).__name__} for "
                f"{runtime.title}: {plain_words(error)}"
            ) from error
        program = runtime.load(path, threads)
    inputs = network.program.example_inputs
    call = program.bind(tensors_of(inputs))
    call()
    return call
