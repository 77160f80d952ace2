"""LiteRT (once TensorFlow Lite): .tflite files, run by XNNPACK on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.runtimes.capture import Captured, silent
from secateur.runtimes.interface import Program, Runtime, load_package


class LiteRt(Runtime):
    """LiteRT's files; all sizes are fixed."""

    name = "litert"
    title = "LiteRT"
    suffix = ".tflite"
    extra = "litert"
    writers = ("litert_torch",)
    runners = ("ai_edge_litert",)
    distribution = "ai-edge-litert"

    def write(self, network: Captured, path: Path) -> None:
        assert network.program.example_inputs is not None
        args, kwargs = network.program.example_inputs
        with silent():
            converter = load_package("litert_torch")
            model = converter.convert(network.program.module(), args, kwargs)
            model.export(os.fspath(path))

    def load(self, path: Path, threads: int) -> Program:
        with silent():
            package = load_package("ai_edge_litert.interpreter")
            interpreter = package.Interpreter(os.fspath(path), num_threads=threads or None)
            interpreter.allocate_tensors()
        inputs = interpreter.get_input_details()
        outputs = [one["index"] for one in interpreter.get_output_details()]
        names = tuple(one["name"].partition("serving_default_")[2] or one["name"] for one in inputs)

        def bind(tensors: Sequence[Tensor]) -> Callable[[], Sequence[Any]]:
            arrays = [x.detach().cpu().contiguous().numpy() for x in tensors]
            places = [one["index"] for one in inputs]

            def once() -> list[Any]:
                for place, array in zip(places, arrays, strict=True):
                    interpreter.set_tensor(place, array)
                interpreter.invoke()
                return [interpreter.get_tensor(place) for place in outputs]

            return once

        return Program(names, bind)
