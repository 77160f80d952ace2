"""LiteRT (once TensorFlow Lite): .tflite files, run by XNNPACK on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.runtimes.capture import Captured, by_name, silent
from secateur.runtimes.interface import Program, Runtime, load_package

PREFIX = "serving_default_"  # of inputs, from the one signature that a file has


class LiteRt(Runtime):
    """LiteRT's files; all sizes are fixed, and whole numbers have 32 bits."""

    name = "litert"
    title = "LiteRT"
    suffix = ".tflite"
    extra = "litert"
    writers = ("litert_torch",)
    runners = ("ai_edge_litert",)
    distribution = "ai-edge-litert"

    def write(self, network: Captured, path: Path) -> None:
        module, tensors = by_name(network)
        with silent():
            converter = load_package("litert_torch")
            converter.convert(module, sample_kwargs=tensors).export(os.fspath(path))

    def load(self, path: Path, threads: int) -> Program:
        with silent():
            package = load_package("ai_edge_litert.interpreter")
            interpreter = package.Interpreter(os.fspath(path), num_threads=threads or None)
            interpreter.allocate_tensors()
        inputs = interpreter.get_input_details()
        outputs = [one["index"] for one in interpreter.get_output_details()]
        names = tuple(one["name"].removeprefix(PREFIX) for one in inputs)

        def bind(tensors: Sequence[Tensor]) -> Callable[[], Sequence[Any]]:
            pairs = zip(inputs, tensors, strict=True)
            arrays = [(one["index"], _array(one, tensor)) for one, tensor in pairs]

            def once() -> list[Any]:
                for place, array in arrays:
                    interpreter.set_tensor(place, array)
                interpreter.invoke()
                return [interpreter.get_tensor(place) for place in outputs]

            return once

        return Program(names, bind)


def _array(wanted: dict[str, Any], tensor: Tensor) -> Any:
    array = tensor.detach().cpu().contiguous().numpy()
    found = array.astype(wanted["dtype"])
    if array.dtype != found.dtype and not (found == array).all():
        raise ValueError(
            f"input {wanted['name'].removeprefix(PREFIX)}: the file takes {found.dtype}, which "
            f"does not hold all the values given as {array.dtype}"
        )
    return found
