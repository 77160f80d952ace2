"""torch.export: a graph and its weights in one .pt2 file, which torch runs without the class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import TensorArgument
from torch.utils._pytree import tree_unflatten

from secateur.runtimes.capture import Captured, quiet, user_inputs
from secateur.runtimes.interface import Program, Runtime
from secateur.utils.forward import tensors_of


class TorchExport(Runtime):
    """Exported programs, run by torch on as many threads as it is set to."""

    name = "torch.export"
    title = "torch.export"
    suffix = ".pt2"
    extra = "export"
    writers = runners = ()
    distribution = "torch"
    open_sizes = True

    def write(self, network: Captured, path: Path) -> None:
        with quiet():
            torch.export.save(network.program, path)

    def load(self, path: Path, threads: int) -> Program:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            module = program.module()
        arguments = [spec.arg for spec in user_inputs(program)]
        names = tuple(arg.name for arg in arguments if isinstance(arg, TensorArgument))

        def bind(tensors: Sequence[Tensor]) -> Callable[[], Sequence[Any]]:
            given = iter(tensors)
            leaves = [
                next(given) if isinstance(arg, TensorArgument) else getattr(arg, "value", None)
                for arg in arguments
            ]
            assert program.call_spec.in_spec is not None
            args, kwargs = tree_unflatten(leaves, program.call_spec.in_spec)

            def once() -> list[Tensor]:
                with torch.inference_mode():
                    return tensors_of(module(*args, **kwargs))

            return once

        return Program(names, bind)
