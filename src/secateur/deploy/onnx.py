"""ONNX: a network becomes one file that other runtimes read, checked against the network itself.

A model and an example flow in; a checked .onnx file flows out. Such a file can be run, timed and
counted here too, by ONNX Runtime and from its own graph.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.deploy.onnx_flops import count_flops
from secateur.measurement import Latency, count_bytes, time_calls, time_together
from secateur.measurement.runtimes import session, translate
from secateur.utils.comparison import largest_difference
from secateur.utils.extras import require
from secateur.utils.files import named_after
from secateur.utils.forward import (
    Example,
    arguments,
    check_devices,
    evaluating,
    full_precision,
    inputs_of,
    tensors_of,
)

__all__ = ["count_flops", "export", "latencies", "latency", "run"]

LARGEST = 2**31 - 2**20  # protobuf's 2 GiB, less some room for the graph itself


def export(
    model: nn.Module,
    example: Example,
    path: str | os.PathLike[str],
    *,
    check: bool = True,
    tolerance: float = 1e-5,
    dynamic_batch: bool = True,
) -> Path:
    """Write a model in eval mode as one ONNX file, after checking it against the model.

    The check runs ONNX Runtime and the model on random inputs like the example (and, with
    `dynamic_batch`, on one row more) and asks for every output

        max |onnx - torch| <= tolerance * max |torch|

    Only then does the new file take the place of an old one, in one step.

    Args:
        model: Any module that `torch.export` understands, below 2 GiB.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.
        path: Where to write, such as "small.onnx"; missing folders are made.
        check: Whether to compare the file with the model (needs onnxruntime).
        tolerance: Largest difference allowed, relative to the largest output.
        dynamic_batch: Whether the file takes any number of rows: the first dimension of every input
            that has as many rows as the first input.

    Returns:
        The path written.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: The weights do not fit into one file, or the example is on another device.
        RuntimeError: The model could not be exported, or the file computes something else. An
            old file is still there.
        OSError: The file can't be written; likewise.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(nn.Linear(3, 2), torch.zeros(1, 3), f"{folder}/small.onnx").name
        'small.onnx'
    """
    needed = ["onnx", "onnxscript", "onnxruntime"] if check else ["onnx", "onnxscript"]
    for name in needed:
        require(name, extra="export")
    check_devices(model, example)
    _check_size(model)
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"export: {path} would be an ONNX file; name it {path.stem}.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        new = Path(folder) / path.name
        with evaluating(model), named_after(path):
            _translate(model, example, new, dynamic_batch)
            if check:
                _compare(model, example, new, tolerance, dynamic_batch)
        os.replace(new, path)
    return path


def run(path: str | os.PathLike[str], *inputs: Tensor, **named: Tensor) -> list[Tensor]:
    """Run an ONNX file on the CPU by ONNX Runtime and return its outputs.

    Args:
        path: The file.
        *inputs: Tensors for the file's inputs, in order.
        **named: Tensors for inputs by their names.

    Returns:
        The outputs, in the file's order.

    Raises:
        ImportError: onnxruntime is missing.
        ValueError: There are more or fewer tensors than the file has inputs.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export(nn.Flatten(), torch.zeros(1, 3, 2), f"{folder}/small.onnx")
        ...     run(path, torch.ones(2, 3, 2))[0].shape
        torch.Size([2, 6])
    """
    session = _session(path)
    return [torch.from_numpy(array) for array in session.run(None, _feeds(session, inputs, named))]


def latency(
    path: str | os.PathLike[str],
    example: Example,
    *,
    threads: int = 1,
    repeats: int = 50,
    warmup: int = 5,
) -> Latency:
    """Return the median seconds of one run of an ONNX file by ONNX Runtime on the CPU.

    Args:
        path: The file.
        example: A tensor, a tuple of tensors or a dict of tensors by input name.
        threads: Threads inside an operator; 0 lets ONNX Runtime choose.
        repeats: Timed runs, at least 1.
        warmup: Runs that come first and are not timed.

    Returns:
        `Latency(median, spread)` in seconds.

    Raises:
        ImportError: onnxruntime is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export(nn.Linear(3, 2), torch.zeros(1, 3), f"{folder}/small.onnx")
        ...     latency(path, torch.zeros(1, 3), repeats=3).median > 0
        True
    """
    return time_calls(_prepared(path, example, threads), repeats=repeats, warmup=warmup)


def latencies(
    paths: Sequence[str | os.PathLike[str]], example: Example, *, threads: int = 1
) -> list[Latency]:
    """Return the latency of several ONNX files, measured in turns so that their ratios stay true.

    Args:
        paths: The files.
        example: As `latency` takes it, for all of them.
        threads: As there.

    Returns:
        One `Latency(median, spread)` a file, in seconds.

    Raises:
        ImportError: onnxruntime is missing.

    Warns:
        RuntimeWarning: The machine is busy, so that measuring takes longer.

    Example:
        >>> import tempfile
        >>> example = torch.zeros(64, 512)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     full = export(nn.Linear(512, 512), example, f"{folder}/full.onnx")
        ...     small = export(nn.Linear(512, 8), example, f"{folder}/small.onnx")
        ...     full, small = latencies([full, small], example)
        >>> small.median < full.median
        True
    """
    return time_together([_prepared(path, example, threads) for path in paths], patience=2)


def _prepared(path: str | os.PathLike[str], example: Example, threads: int) -> Callable[[], Any]:
    """A function without arguments that runs a file once on the example."""
    session = _session(path, threads)
    inputs, named = arguments(example)
    feeds = _feeds(session, tensors_of(inputs), _named_tensors(named))
    return lambda: session.run(None, feeds)


def _check_size(model: nn.Module) -> None:
    size = count_bytes(model)
    if size > LARGEST:
        raise ValueError(
            f"export: the model's weights take {size} bytes; one ONNX file holds at most "
            f"{LARGEST}. Export a smaller model, or one in half precision (model.half())."
        )


def _translate(model: nn.Module, example: Example, path: Path, dynamic_batch: bool) -> None:
    if dynamic_batch:  # torch.export may take a size of one for a constant
        example = _resized(example, 2)
    try:
        translate(model, example, path, _open_batch(example) if dynamic_batch else None)
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, OSError):
                raise cause from None
        raise RuntimeError(
            f"export: torch.onnx could not translate {type(model).__name__}"
            f"{_hint(dynamic_batch)}: {error}"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _hint(dynamic_batch: bool) -> str:
    return " (if its batch is fixed, pass dynamic_batch=False)" if dynamic_batch else ""


def _open_batch(example: Example) -> Any:
    """For torch.export: the first dimension of every batched input is open, all others fixed."""
    rows = _rows(example)
    batch = torch.export.Dim("batch")

    def shape(leaf: Any) -> Any:
        return {0: batch} if _is_batched(leaf, rows) else None

    args, kwargs = arguments(example)
    return tree_map(shape, kwargs) if kwargs else tree_map(shape, args)


def _rows(example: Example) -> int | None:
    first = next((tensor for tensor in inputs_of(example) if tensor.dim() > 0), None)
    return None if first is None else first.shape[0]


def _is_batched(leaf: Any, rows: int | None) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == rows


def _resized(example: Example, rows: int) -> Example:
    """The example with another number of rows: its own, over and over."""
    old = _rows(example)

    def resize(leaf: Any) -> Any:
        if not _is_batched(leaf, old):
            return leaf
        return leaf[torch.arange(rows, device=leaf.device) % len(leaf)]

    args, kwargs = arguments(example)
    return tree_map(resize, kwargs or args)


def _compare(
    model: nn.Module, example: Example, path: Path, tolerance: float, dynamic_batch: bool
) -> None:
    rows = _rows(example)
    examples = [example]
    if dynamic_batch and rows is not None:
        examples.append(_resized(example, rows + 1))
    generator = torch.Generator().manual_seed(0)
    for inputs in examples:
        inputs = _random_like(inputs, generator)
        try:
            difference = _difference(model, inputs, path)
        except Exception as error:
            raise RuntimeError(
                f"export: {type(model).__name__} or its ONNX file does not run on "
                f"{_rows(inputs)} rows{_hint(dynamic_batch)}: {error}"
            ) from error
        if not difference <= tolerance:  # a NaN is a difference, too
            raise RuntimeError(
                f"export: ONNX Runtime and {type(model).__name__} disagree on random inputs "
                f"({_rows(inputs)} rows):\n"
                f"  difference: {difference:.3g} of the output's scale\n"
                f"  tolerance:  {tolerance:.3g}\n"
                "Nothing was written. Pass a larger tolerance if that is good enough."
            )


def _random_like(example: Example, generator: torch.Generator) -> Example:
    """Floats of the example's mean and deviation; of what is not a float, its rows at random."""

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            return leaf
        if not leaf.is_floating_point():
            rows = torch.randint(len(leaf), leaf.shape[:1], generator=generator)
            return leaf[rows.to(leaf.device)]
        mean, deviation = _mean_and_deviation(leaf)
        noise = torch.randn(leaf.shape, generator=generator) * deviation + mean
        return noise.to(leaf.device, leaf.dtype)

    args, kwargs = arguments(example)
    return tree_map(draw, kwargs or args)


def _mean_and_deviation(tensor: Tensor) -> tuple[float, float]:
    values = tensor.detach().float()
    mean, deviation = values.mean().item(), values.std(correction=0).item()
    usable = math.isfinite(mean) and math.isfinite(deviation) and deviation > 0
    return (mean, deviation) if usable else (0.0, 1.0)


def _difference(model: nn.Module, example: Example, path: Path) -> float:
    args, kwargs = arguments(example)
    with torch.no_grad(), full_precision():
        expected = [tensor.cpu() for tensor in tensors_of(model(*args, **kwargs))]
    found = run(path, *tensors_of(args), **_named_tensors(kwargs))
    return largest_difference(expected, found)


def _session(path: str | os.PathLike[str], threads: int = 0) -> Any:
    require("onnxruntime", extra="export")
    return session(path, threads)


def _feeds(session: Any, inputs: Sequence[Tensor], named: dict[str, Tensor]) -> dict[str, Any]:
    names = [value.name for value in session.get_inputs()]
    unnamed = [name for name in names if name not in named]
    if len(unnamed) != len(inputs) or len(unnamed) + len(named) != len(names):
        given = [f"{len(inputs)} in order"] if inputs else []
        raise ValueError(
            f"the ONNX file takes other inputs than were given:\n"
            f"  takes: {', '.join(names)}\n"
            f"  given: {', '.join([*given, *named])}"
        )
    feeds = dict(zip(unnamed, inputs, strict=True)) | named
    return {name: _to_numpy(name, tensor) for name, tensor in feeds.items()}


def _named_tensors(kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """The inputs of a file: flags and other constants have become part of its graph."""
    return {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}


def _to_numpy(name: str, tensor: Tensor) -> Any:
    if tensor.dtype is torch.bfloat16:
        raise TypeError(
            f"input {name} is bfloat16, which ONNX Runtime's Python interface does not take; "
            "use float16 or float32, or export with check=False."
        )
    return tensor.detach().cpu().contiguous().numpy()
