"""ExecuTorch: .pte files whose operators XNNPACK runs where it has them, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.runtimes.capture import Captured, silent
from secateur.runtimes.interface import Program, Runtime, load_package

NAMES = "secateur_input_names"  # a constant in the file, which has no names for inputs of its own


class ExecuTorch(Runtime):
    """ExecuTorch's files; memory is planned ahead, so all sizes are fixed."""

    name = "executorch"
    title = "ExecuTorch"
    suffix = ".pte"
    extra = "executorch"
    writers = runners = ("executorch",)
    distribution = "executorch"

    def write(self, network: Captured, path: Path) -> None:
        with silent():
            exir = load_package("executorch.exir")
            xnnpack = load_package("executorch.backends.xnnpack.partition.xnnpack_partitioner")
            lowered = exir.to_edge_transform_and_lower(
                network.program,
                partitioner=[xnnpack.XnnpackPartitioner()],
                constant_methods={NAMES: ",".join(network.inputs)},
            )
            written = lowered.to_executorch().buffer
        path.write_bytes(written)

    def load(self, path: Path, threads: int) -> Program:
        with silent():
            pool = load_package("executorch.extension.pybindings.portable_lib")
            if threads:
                pool._unsafe_reset_threadpool(threads)
            runtime = load_package("executorch.runtime").Runtime.get()
            program = runtime.load_program(path)
            method = program.load_method("forward")
            if NAMES in program.method_names:
                names = tuple(program.load_method(NAMES).execute([])[0].split(","))
            else:
                names = tuple(f"input_{n}" for n in range(method.metadata.num_inputs()))

        def bind(tensors: Sequence[Tensor]) -> Callable[[], Sequence[Any]]:
            given = [x.detach().cpu().contiguous() for x in tensors]
            return lambda: program and method.execute(given)

        return Program(names, bind)
