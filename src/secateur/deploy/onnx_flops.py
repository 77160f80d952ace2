"""FLOPs counted from an ONNX file alone, as an independent check of what torch counts.

A file flows in; an exact integer flows out, or a refusal.
"""

from __future__ import annotations

import math
import os
from typing import Any

from secateur.utils.extras import require


def count_flops(path: str | os.PathLike[str], *, batch: int = 1) -> int:
    """Return the floating-point operations of one run of an ONNX file, two a multiply-add.

    Counted from the shapes in the file, without torch: an independent check of
    `secateur.measurement.count_flops`. Convolutions, matrix products and recurrent layers count.

    Args:
        path: The file.
        batch: The size of every dimension that the file leaves open.

    Returns:
        FLOPs, an exact integer.

    Raises:
        ImportError: onnx is missing.
        ValueError: The file has an operator whose FLOPs are not known here, or a shape that cannot
            be inferred: no wrong figure is returned.

    Example:
        >>> import tempfile, torch
        >>> from secateur.deploy import export
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export(torch.nn.Linear(3, 2), torch.zeros(1, 3), f"{folder}/small.onnx")
        ...     count_flops(path, batch=5)
        60
    """
    onnx = require("onnx", extra="export")
    graph = _inferred(onnx.load(os.fspath(path)), batch)
    shapes = _shapes(graph)
    return sum(_node_flops(node, shapes) for node in graph.node)


def _inferred(model: Any, batch: int) -> Any:
    """The graph with every open dimension set and all shapes inferred anew."""
    onnx = require("onnx", extra="export")
    del model.graph.value_info[:]
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = batch
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True).graph


def _shapes(graph: Any) -> dict[str, list[int | None]]:
    shapes: dict[str, list[int | None]] = {
        tensor.name: list(tensor.dims) for tensor in graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        ]
    return shapes


_UNKNOWN = {
    *("Einsum", "Attention", "MultiHeadAttention", "DeformConv", "If", "Loop", "Scan"),
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DFT"),
}


def _node_flops(node: Any, shapes: dict[str, list[int | None]]) -> int:
    def size(name: str, start: int = 0) -> int:
        shape = shapes.get(name)
        if shape is None or None in shape:
            raise ValueError(
                f"count_flops: the shape of {name}, at {node.op_type} {node.name}, cannot be "
                f"inferred: {shape}."
            )
        return math.prod(side for side in shape[start:] if side is not None)

    if node.op_type == "Conv":
        return 2 * size(node.output[0]) * size(node.input[1], start=1)
    if node.op_type == "ConvTranspose":
        return 2 * size(node.input[0]) * size(node.input[1], start=1)
    if node.op_type == "MatMul":
        return 2 * size(node.output[0]) * size(node.input[0], start=-1)
    if node.op_type == "Gemm":
        transposed = any(item.name == "transA" and item.i for item in node.attribute)
        columns = size(node.input[0], start=-1)
        inner = size(node.input[0]) // columns if transposed else columns
        return 2 * size(node.output[0]) * inner
    if node.op_type in ("LSTM", "GRU", "RNN"):
        steps_and_rows = size(node.input[0]) // size(node.input[0], start=-1)
        return 2 * steps_and_rows * (size(node.input[1]) + size(node.input[2]))
    if node.op_type in _UNKNOWN:
        raise ValueError(f"count_flops: the FLOPs of {node.op_type} {node.name} are not known.")
    return 0
