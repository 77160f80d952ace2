"""ONNX Runtime: .onnx files, written by torch.onnx and run on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.runtimes.capture import Captured, quiet
from secateur.runtimes.interface import Program, Runtime, load_package

LARGEST = 2**31 - 2**20  # protobuf's 2 GiB, less some room for the graph itself
BFLOAT16 = (
    "ONNX Runtime has no bfloat16 kernels for the CPU, and its Python interface takes no bfloat16 "
    "arrays; export the model in float16 or float32 (model.half(), model.float()), or with "
    "check=False for a runtime that has them"
)


@dataclass(frozen=True)
class OnnxRuntime(Runtime):
    """ONNX files.

    Attributes:
        opset: the version of ONNX's operators; torch's own choice by default.
    """

    opset: int | None = None

    name = "onnxruntime"
    title = "ONNX Runtime"
    suffix = ".onnx"
    extra = "export"
    writers = ("onnx", "onnxscript")
    runners = ("onnxruntime",)
    distribution = "onnxruntime"
    largest = LARGEST
    open_sizes = True
    lacks: ClassVar = {torch.bfloat16: BFLOAT16}

    def write(self, network: Captured, path: Path) -> None:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                network.program,
                dynamo=True,
                opset_version=self.opset,
                output_names=network.outputs,
                verbose=False,
            )
            assert program is not None
            _name_sizes(program, network)
            program.save(os.fspath(path), external_data=False)

    def load(self, path: Path, threads: int) -> Program:
        runtime = load_package("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        session = runtime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        names = tuple(value.name for value in session.get_inputs())

        def bind(tensors: Sequence[Tensor]) -> Callable[[], Sequence[Any]]:
            feeds = {name: _array(name, x) for name, x in zip(names, tensors, strict=True)}
            return lambda: session.run(None, feeds)

        return Program(names, bind)


def _name_sizes(program: Any, network: Captured) -> None:
    """Open sizes get the names that were asked for, where this version of torch can rename."""
    names = {}
    for value, sizes in zip(program.model.graph.inputs, network.sizes, strict=True):
        for dim, name in sizes.items():
            if not isinstance(value.shape[dim], int):
                names[value.shape[dim].value] = name
    if hasattr(program, "rename_axes"):
        program.rename_axes({old: new for old, new in names.items() if old and old.isidentifier()})


def _array(name: str, tensor: Tensor) -> Any:
    if tensor.dtype is torch.bfloat16:
        raise TypeError(f"input {name} is bfloat16: {BFLOAT16}")
    return tensor.detach().cpu().contiguous().numpy()
