"""OpenVINO: an .xml file with the graph and a .bin file with the weights, run on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.runtimes.capture import Captured, silent
from secateur.runtimes.interface import Program, Runtime, load_package


class OpenVino(Runtime):
    """OpenVINO's own files; weights lie beside the graph."""

    name = "openvino"
    title = "OpenVINO"
    suffix = ".xml"
    extra = "openvino"
    writers = runners = ("openvino",)
    distribution = "openvino"
    open_sizes = True
    companions = (".bin",)

    def write(self, network: Captured, path: Path) -> None:
        with silent():
            openvino = load_package("openvino")
            model = openvino.convert_model(network.program)
            for port, name in zip(model.inputs, network.inputs, strict=True):
                port.get_tensor().set_names({name})
            model.reshape(_shapes(openvino, model, network))
            for port, name in zip(model.outputs, network.outputs, strict=True):
                port.get_tensor().set_names({name})
            openvino.save_model(model, os.fspath(path), compress_to_fp16=False)

    def load(self, path: Path, threads: int) -> Program:
        openvino = load_package("openvino")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        compiled = openvino.Core().compile_model(os.fspath(path), "CPU", settings)
        names = tuple(port.get_any_name() for port in compiled.inputs)
        request = compiled.create_infer_request()

        def bind(tensors: Sequence[Tensor]) -> Callable[[], Sequence[Any]]:
            arrays = [x.detach().cpu().contiguous().numpy() for x in tensors]

            def once() -> list[Any]:
                found = request.infer(arrays, share_inputs=True, share_outputs=True)
                return [found[port] for port in compiled.outputs]

            return once

        return Program(names, bind)


def _shapes(openvino: Any, model: Any, network: Captured) -> dict[Any, Any]:
    """Of every input: what is open stays open, all else is as in the example."""
    values = {node.name: node.meta["val"] for node in network.program.graph.nodes if node.meta}
    found = {}
    for port, name, sizes in zip(model.inputs, network.inputs, network.sizes, strict=True):
        shape = values[name].shape
        found[port] = openvino.PartialShape(
            [-1 if dim in sizes else int(size) for dim, size in enumerate(shape)]
        )
    return found
