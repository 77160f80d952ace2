"""The numerical check: do two models compute the same?

In: two models and example inputs. Out: the largest relative difference of their outputs, and what
rounding explains.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from secateur.utils.comparison import largest_difference
from secateur.utils.contexts import preserve_state, tensors_in, unfused_ops
from secateur.utils.forward import arguments, full_precision, state_of

_HALVES = (torch.float16, torch.bfloat16)


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def difference(model: nn.Module, other: nn.Module, example: Any) -> float:
    """The largest difference between two models' outputs, relative to the outputs' scale.

    Both run in eval mode, with the same random numbers, on the example and on random inputs of
    another batch size (where the first model accepts them and gives numbers).

    Returns:
        max |a - b| / max |a| over all outputs and inputs; inf where their shapes differ, or where
        one is not a number.
    """
    worst = 0.0
    with (
        preserve_state(model),
        preserve_state(other),
        torch.no_grad(),
        unfused_ops(),
        full_precision(),
    ):
        for position, (args, kwargs) in enumerate(_variations(example)):
            try:
                expected = _outputs(model, args, kwargs)
            except Exception:
                if position == 0:
                    raise
                continue  # this model has a fixed batch size
            if position and any(bool(t.isnan().any()) for t in expected):
                continue  # this model does not take any number
            found = _outputs(other, args, kwargs)
            worst = max(worst, largest_difference(expected, found))
    return worst


def _outputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    found = tensors_in(model(*args, **kwargs))
    return [t for t in found if (t.is_floating_point() or t.is_complex()) and t.numel()]


def _variations(example: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    call = arguments(example)
    yield call
    sizes = {tensor.shape[0] for tensor in tensors_in(call) if tensor.ndim}
    if len(sizes) == 1:
        generator = torch.Generator().manual_seed(0)
        order = [*range(sizes.pop()), 0]

        def vary(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.ndim:
                return leaf
            taken = leaf[order]
            if not leaf.is_floating_point():
                return taken
            return noise(taken, generator)

        yield tree_map(vary, call)


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal random numbers, the same on every device, whatever torch's default device is."""
    shape = like.shape
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(like)


def tolerance(model: nn.Module, example: Any = None) -> float:
    """The relative difference that rounding explains, by the coarsest number type.

    Args:
        model: its parameters' types count.
        example: where given, the types count too that the model computes with on it (autocast).
    """
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if example is not None:
        args, kwargs = arguments(example)
        watch = _Types()
        with preserve_state(model), torch.no_grad(), unfused_ops(), watch:
            model(*args, **kwargs)
        types |= watch.found
    return max((TOLERANCE.get(dtype, 1e-5) for dtype in types), default=1e-5)


class _Types(TorchDispatchMode):
    """Notes the number types of all results."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found |= {t.dtype for t in tree_leaves(out) if isinstance(t, Tensor)}
        return out


def agree(model: nn.Module, found: float, example: Any) -> bool:
    """Whether rounding explains a difference that was found on these inputs."""
    return found <= tolerance(model) or found <= tolerance(model, example)


def precise(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """The model and its inputs in float32 where they were in half precision, if that runs.

    Half precision rounds so coarsely that a small mistake would pass for rounding.
    """
    if not any(t.dtype in _HALVES for t in state_of(model)):
        return model, example

    def widened(value: Any) -> Any:
        is_half = isinstance(value, Tensor) and value.dtype in _HALVES
        return value.float() if is_half else value

    wide, inputs = copy.deepcopy(model)._apply(widened), tree_map(widened, example)
    args, kwargs = arguments(inputs)
    try:
        with preserve_state(wide), torch.no_grad(), unfused_ops():
            wide(*args, **kwargs)
    except Exception:
        return model, example  # its code asks for halves
    return wide, inputs
