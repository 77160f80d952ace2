"""Whether a file computes what the model does, on random inputs of several sizes.

A model, an example and an exported file flow in; the largest difference flows out, or a refusal.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.deploy.open_sizes import resized, size_words
from secateur.runtimes.capture import Captured, named_outputs, plain_words
from secateur.runtimes.interface import Runtime
from secateur.utils.comparison import largest_difference
from secateur.utils.forward import Example, arguments, full_precision, tensors_of


def difference(
    model: nn.Module,
    example: Example,
    sizes: Any,
    network: Captured,
    runtime: Runtime,
    path: Path,
) -> float:
    """max |file - torch| / max |torch| over all outputs, on random inputs like the example.

    Where sizes are open, also on inputs whose open sizes are larger by one; where the model itself
    takes no such sizes, twice as large.

    Raises:
        RuntimeError: the model or the file doesn't run on them.
    """
    program = runtime.load(path, threads=0)
    generator = torch.Generator().manual_seed(0)
    found = []
    for inputs, expected in _runs(model, example, sizes, generator):
        try:
            given = _in_order(network, inputs)
            outputs = [torch.as_tensor(x).clone() for x in program.bind(given)()]
        except Exception as error:
            raise RuntimeError(
                f"export: {type(model).__name__}'s {runtime.title} file does not run on "
                f"{size_words(inputs, sizes)}{hint(sizes)}: {plain_words(error)}"
            ) from error
        found.append(largest_difference(expected, outputs))
    return max(found)


def hint(sizes: Any) -> str:
    """What to write where a size that was left open can't be."""
    names = {name for leaf in tree_leaves(sizes) for name in leaf.values()}
    one, them = ("it is", "it") if len(names) == 1 else ("they are", "those")
    listed = " and ".join(sorted(names))
    return f" (open: {listed}; if {one} fixed, leave {them} out of dynamic=())" if names else ""


def _runs(model: nn.Module, example: Example, sizes: Any, generator: torch.Generator) -> Any:
    """Random inputs, with what the model makes of them."""
    inputs = _random_like(example, generator)
    yield inputs, _outputs(model, inputs)
    if not hint(sizes):
        return
    try:
        inputs = _random_like(resized(example, sizes, lambda size: size + 1), generator)
        expected = _outputs(model, inputs)
    except Exception:
        inputs = _random_like(resized(example, sizes, lambda size: 2 * size), generator)
        try:
            expected = _outputs(model, inputs)
        except Exception as error:
            raise RuntimeError(
                f"export: {type(model).__name__} does not run on {size_words(inputs, sizes)}"
                f"{hint(sizes)}: {plain_words(error)}"
            ) from error
    yield inputs, expected


def _outputs(model: nn.Module, inputs: Example) -> list[Tensor]:
    args, kwargs = arguments(inputs)
    with torch.no_grad(), full_precision():
        return [tensor.cpu() for tensor in named_outputs(model(*args, **kwargs)).values()]


def _in_order(network: Captured, inputs: Example) -> list[Tensor]:
    """The tensors as the file takes them: keyword arguments as the capture ordered them."""
    args, kwargs = arguments(inputs)
    assert network.program.example_inputs is not None
    ordered = {name: kwargs[name] for name in network.program.example_inputs[1]}
    return tensors_of((args, ordered))


def _random_like(example: Example, generator: torch.Generator) -> Example:
    """Floats of the example's mean and deviation; of what is not a float, its rows at random."""

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            return leaf
        if not leaf.is_floating_point():
            rows = torch.randint(len(leaf), leaf.shape[:1], generator=generator)
            return leaf[rows.to(leaf.device)]
        mean, deviation = _mean_and_deviation(leaf)
        noise = torch.randn(leaf.shape, generator=generator) * deviation + mean
        return noise.to(leaf.device, leaf.dtype)

    args, kwargs = arguments(example)
    return tree_map(draw, kwargs or args)


def _mean_and_deviation(tensor: Tensor) -> tuple[float, float]:
    values = tensor.detach().float()
    mean, deviation = values.mean().item(), values.std(correction=0).item()
    usable = math.isfinite(mean) and math.isfinite(deviation) and deviation > 0
    return (mean, deviation) if usable else (0.0, 1.0)
