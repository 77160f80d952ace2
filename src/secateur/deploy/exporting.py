"""`export`: a network as a file for another runtime, checked against the network itself.

A model and an example flow in; a checked file flows out, of the runtime that its suffix names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur.budget import Reached
from secateur.deploy.checking import difference, hint
from secateur.deploy.onnx_file import halve, quantize, write_facts
from secateur.deploy.open_sizes import Dynamic, open_sizes, resized
from secateur.measurement import count_bytes
from secateur.runtimes.capture import Captured, capture, plain_words
from secateur.runtimes.interface import Runtime
from secateur.runtimes.onnx_runtime import OnnxRuntime
from secateur.runtimes.table import runtime_of
from secateur.utils.files import named_after
from secateur.utils.forward import Example, check_devices, evaluating, inputs_of, state_of


def export(
    model: nn.Module,
    example: Example,
    path: str | os.PathLike[str],
    *,
    check: bool = True,
    tolerance: float | None = None,
    dynamic: Dynamic | None = None,
    opset: int | None = None,
    half: bool = False,
    int8: Iterable[Any] | None = None,
    reached: Reached | None = None,
) -> Path:
    """Write a model in eval mode as one file of another runtime, after checking it.

    The suffix says which: .onnx (ONNX Runtime), .xml (OpenVINO, its weights beside it in a .bin),
    .tflite (LiteRT), .pte (ExecuTorch with XNNPACK) or .pt2 (torch.export). The check runs the file
    in its runtime, and the model, on random inputs like the example, and where sizes are open on
    others, too; for every output it asks

        max |runtime - torch| <= tolerance * max |torch|

    Only then does the new file take the place of an old one. The model is as it was.

    Args:
        model: Any module that `torch.export` understands; for .onnx below 2 GiB.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.
        path: Where to write, such as "small.onnx"; missing folders are made.
        check: Whether to compare the file with the model, which needs the runtime itself.
        tolerance: Largest difference allowed, relative to the largest output: by default 1e-5; with
            `half` 1e-2; with `int8` none, the difference is only noted in the file.
        dynamic: Sizes that the file leaves open, of "batch", "sequence", "height", "width": in
            every input that is as large there as the first one that has it. Or, input by input,
            {"tokens": {0: "batch", 1: "length"}}. By default the batch where the runtime has open
            sizes (.onnx, .xml, .pt2); () fixes all.
        opset: Of .onnx, the version of ONNX's operators; by default torch's choice.
        half: Of .onnx, whether weights and arithmetic are float16; inputs and outputs stay.
        int8: Of .onnx, batches to calibrate by, such as a few of the training loader's (inputs
            first): weights and activations become 8-bit integers, weights channel by channel.
        reached: What `budget.reached(model, example)` said, for the notes in an .onnx file
            (`secateur.deploy.onnx_file.facts` reads them).

    Returns:
        The path written.

    Raises:
        ImportError: A package is missing; the message names the extra.
        ValueError: An unknown suffix; what the runtime doesn't have; weights that don't fit into
            one file; calibration batches of another shape; the example is on another device.
        TypeError: The runtime doesn't compute in the model's number type.
        RuntimeError: The model could not be exported, or the file computes something else. An
            old file is still there.
        OSError: The file can't be written; likewise.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(nn.Linear(3, 2), torch.zeros(1, 3), f"{folder}/small.onnx").name
        'small.onnx'
    """
    path = Path(path)
    runtime = _runtime(path, opset, {"half": half, "int8": int8 is not None, "reached": reached})
    runtime.require(to_run=check or int8 is not None)
    check_devices(model, example)
    _check_size(model, runtime)
    if check:
        _check_number_types(model, example, runtime)
    if dynamic is None:
        dynamic = ("batch",) if runtime.open_sizes else ()
    elif dynamic and not runtime.open_sizes:
        raise ValueError(
            f"export: all sizes in a file of {runtime.title} are fixed; leave dynamic= out, and "
            "export one file a size"
        )
    sizes = open_sizes(model, example, dynamic)
    if tolerance is None and int8 is None:
        tolerance = 1e-2 if half else 1e-5
    with _place(path, runtime) as new, evaluating(model):
        rows = resized(example, sizes, lambda size: max(size, 2))  # of a 1 torch makes a constant
        network = _write(model, rows, sizes, runtime, new)
        if half:
            halve(new)
        if int8 is not None:
            quantize(new, int8)
        found = difference(model, example, sizes, network, runtime, new) if check else None
        if found is not None and tolerance is not None and not found <= tolerance:  # or a NaN
            raise RuntimeError(
                f"export: {runtime.title} and {type(model).__name__} disagree on random inputs:\n"
                f"  difference: {found:.3g} of the output's scale\n"
                f"  tolerance:  {tolerance:.3g}\n"
                "Nothing was written. Pass a larger tolerance if that is good enough."
            )
        if isinstance(runtime, OnnxRuntime):
            write_facts(new, model, found, reached)
    return path


def _runtime(path: Path, opset: int | None, options: dict[str, Any]) -> Runtime:
    runtime = runtime_of(path)
    if isinstance(runtime, OnnxRuntime):
        return replace(runtime, opset=opset)
    for name, value in {"opset": opset, **options}.items():
        if value:
            raise ValueError(f"export: {name}= is for .onnx files, not for {path.name}")
    return runtime


def _check_size(model: nn.Module, runtime: Runtime) -> None:
    size = count_bytes(model)
    if runtime.largest is not None and size > runtime.largest:
        raise ValueError(
            f"export: the model's weights take {size} bytes; one ONNX file holds at most "
            f"{runtime.largest}. Export a smaller model, or one in half precision (model.half())."
        )


def _check_number_types(model: nn.Module, example: Example, runtime: Runtime) -> None:
    there = {tensor.dtype for tensor in (*state_of(model), *inputs_of(example))}
    for dtype, why in runtime.lacks.items():
        if dtype in there:
            raise TypeError(f"export: {type(model).__name__} computes in {dtype}: {why}.")


@contextmanager
def _place(path: Path, runtime: Runtime) -> Iterator[Path]:
    """Where to write: what is there at the end takes the place of the old, all of it or nothing."""
    with named_after(path):
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory", os.fspath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder) / path.name
            for suffix in (*runtime.companions, runtime.suffix):
                written = (Path(folder) / path.name).with_suffix(suffix)
                os.replace(written, path.with_suffix(suffix))


def _write(
    model: nn.Module, example: Example, sizes: Any, runtime: Runtime, path: Path
) -> Captured:
    try:
        network = capture(model, example, sizes)
        runtime.write(network, path)
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, OSError) and cause.errno is not None:
                raise cause from None
        raise RuntimeError(
            f"export: could not translate {type(model).__name__} for {runtime.title}"
            f"{hint(sizes)}: {plain_words(error)}"
        ) from error
    return network


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
