"""Counting what a network holds and computes: parameters, bytes and FLOPs.

A model (and an example input, for FLOPs) flows in; exact integers flow out. No clock is involved.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from secateur.utils.forward import Example, evaluating, forward, state_of, unfused_attention

aten = torch.ops.aten


def count_params(model: nn.Module) -> int:
    """Return the number of parameters of a model; weights that are tied count once.

    Of a sparse parameter, the stored values count.

    Example:
        >>> count_params(nn.Linear(3, 2))
        8
    """
    return sum(_stored_values(parameter) for parameter in distinct(model.parameters()))


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers; what is shared counts once.

    Of a sparse tensor, the stored values and their indices count.

    Example:
        >>> count_bytes(nn.Linear(3, 2))  # 8 float32
        32
    """
    return sum(tensor_bytes(tensor) for tensor in distinct(state_of(model)))


def count_flops(model: nn.Module, example: Example) -> int:
    """Return the floating-point operations of one forward in eval mode, two a multiply-add.

    Matrix products, convolutions and attention count, as usual in the field; additions of a bias,
    activations, normalisations and other work per entry do not. Fused kernels (attention,
    recurrent layers) are taken apart while counting, so the figure is the same on every device.

    Args:
        model: Any module; parameters may be on the meta device.
        example: A tensor, a tuple of tensors or a dict of keyword tensors. The figure is for this
            whole example: with a batch of eight it is eight times that of one.

    Returns:
        FLOPs, an exact integer.

    Raises:
        ValueError: Model and example are on different devices.

    Example:
        >>> count_flops(nn.Conv2d(3, 8, 3, bias=False), torch.zeros(1, 3, 6, 6))  # 2 * 27 * 8 * 16
        6912

    Source: the count is that of `torch.utils.flop_counter.FlopCounterMode`, completed by what it
    leaves out (products with a vector, nn.Bilinear, experts in one operator).
    """
    run = forward(model, example)
    counter = FlopCounterMode(display=False, custom_mapping=LEFT_OUT)
    with evaluating(model), _without_gradients(model), _unfused(), counter:
        run()
    return int(counter.get_total_flops())


def distinct(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield every tensor once: those that show the same memory (tied weights) are one tensor."""
    seen = set()
    for tensor in tensors:
        key = _memory_key(tensor)
        if key not in seen:
            seen.add(key)
            yield tensor


def tensor_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's entries; of a sparse or wrapped tensor, those of its parts."""
    return sum(part.numel() * part.element_size() for part in parts(tensor))


def parts(tensor: Tensor) -> list[Tensor]:
    """Return the plain tensors that a tensor is stored as; the values of a sparse one come last."""
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue]
        return [part for name in names for part in parts(getattr(tensor, name))]
    return [tensor]


def _stored_values(tensor: Tensor) -> int:
    if tensor.layout is torch.strided:
        return tensor.numel()
    return parts(tensor)[-1].numel()


def _memory_key(tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that share their memory; a transposed tied weight is still the same one."""
    if tensor.layout is not torch.strided or hasattr(tensor, "__tensor_flatten__"):
        return (id(tensor),)
    return (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.numel())


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside: torch's counter can't hook one given to a module."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in asking:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in asking:
                parameter.requires_grad_(True)


@contextmanager
def _unfused() -> Iterator[None]:
    """Let attention and recurrent layers arrive as the matrix products that they are made of."""
    with ExitStack() as stack:
        stack.enter_context(unfused_attention())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        with warnings.catch_warnings():  # CPUs without TF32 are told that they have none
            warnings.simplefilter("ignore")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def _matrix_vector(matrix: torch.Size, vector: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _added_matrix_vector(bias: torch.Size, matrix: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _trilinear(
    first: torch.Size,
    weight: torch.Size,
    second: torch.Size,
    *_: Any,
    out_shape: torch.Size,
    **__: Any,
) -> int:
    """Of nn.Bilinear: (rows, in1) with (out, in1, in2) first, then the result with (rows, in2)."""
    return 2 * math.prod(first[:-1]) * math.prod(weight) + 2 * math.prod(out_shape) * second[-1]


def _grouped(rows: torch.Size, matrices: torch.Size, *_: Any, **__: Any) -> int:
    """Of (rows, in) with the matrices of experts (experts, in, out), one matrix a row."""
    return 2 * math.prod(rows) * matrices[-1]


LEFT_OUT = {  # operators without a count in torch.utils.flop_counter
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.vdot: _matrix_vector,
    aten.addmv: _added_matrix_vector,
    aten._trilinear: _trilinear,
    aten._grouped_mm: _grouped,
}
