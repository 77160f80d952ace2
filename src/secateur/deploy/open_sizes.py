"""Which sizes of a file's inputs are open: the batch, a sequence's length, an image's sides.

An example and names flow in; a tree of open sizes, or an example with other sizes, flows out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.runtimes.capture import OpenSizes
from secateur.utils.forward import Example, arguments, inputs_of

Dynamic = tuple[str, ...] | Mapping[str, Mapping[int, str]]
PLACES: dict[str, Callable[[Tensor], int | None]] = {
    "batch": lambda x: 0 if x.dim() else None,
    "sequence": lambda x: 1 if x.dim() in (2, 3) else None,
    "height": lambda x: x.dim() - 2 if x.dim() in (4, 5) else None,
    "width": lambda x: x.dim() - 1 if x.dim() in (4, 5) else None,
}


def open_sizes(model: nn.Module, example: Example, dynamic: Dynamic) -> Any:
    """A tree like the example's `(args, kwargs)`, with an `OpenSizes` in the place of each tensor.

    Args:
        model: whose `forward` names the inputs.
        example: inputs.
        dynamic: names of `PLACES`: such a size is open in every input that is as large there as the
            first one that has it. Or input -> dimension -> a name for its size.

    Raises:
        ValueError: a name that isn't known, or that no input has.
    """
    if isinstance(dynamic, Mapping):
        found = _by_input(model, example, dynamic)
    else:
        found = _by_name(example, (dynamic,) if isinstance(dynamic, str) else tuple(dynamic))
    return tree_map(lambda leaf: found.get(id(leaf), OpenSizes()), arguments(example))


def resized(example: Example, sizes: Any, size: Callable[[int], int]) -> Example:
    """The example with other open sizes: what it holds, over and over."""

    def resize(leaf: Any, places: OpenSizes) -> Any:
        for dim in places:
            old = leaf.shape[dim]
            if old and (new := size(old)) != old:
                leaf = leaf.index_select(dim, torch.arange(new, device=leaf.device) % old)
        return leaf

    args, kwargs = tree_map(resize, arguments(example), sizes)
    return kwargs or args


def size_words(example: Example, sizes: Any) -> str:
    """The open sizes of an example in words, such as "batch 3, sequence 12"."""
    found = {}
    leaves = zip(tree_leaves(arguments(example)), tree_leaves(sizes), strict=True)
    for leaf, places in leaves:
        found |= {name: leaf.shape[dim] for dim, name in places.items()}
    return ", ".join(f"{name} {size}" for name, size in found.items()) or "the example's sizes"


def _by_name(example: Example, names: tuple[str, ...]) -> dict[int, OpenSizes]:
    found: dict[int, OpenSizes] = {}
    for name in names:
        if name not in PLACES:
            raise ValueError(
                f"dynamic={name!r}: known are {', '.join(PLACES)}; other sizes are named input by "
                "input, such as dynamic={'tokens': {0: 'batch', 1: 'length'}}"
            )
        place = PLACES[name]
        there = [(x, dim) for x in inputs_of(example) if (dim := place(x)) is not None]
        if not there and name != "batch":  # what has no rows has no batch, either
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs_of(example))
            raise ValueError(f"dynamic={name!r}: no input has a {name}; their shapes are {shapes}")
        for tensor, dim in there:
            if tensor.shape[dim] == there[0][0].shape[there[0][1]]:
                found.setdefault(id(tensor), OpenSizes())[dim] = name
    return found


def _by_input(
    model: nn.Module, example: Example, dynamic: Mapping[str, Mapping[int, str]]
) -> dict[int, OpenSizes]:
    args, kwargs = arguments(example)
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    found: dict[int, OpenSizes] = {}
    known: dict[str, int] = {}
    for name, places in dynamic.items():
        if name not in tensors:
            raise ValueError(
                f"dynamic: no input is called {name!r}; there are {', '.join(tensors)}"
            )
        tensor = tensors[name]
        for dim, size in places.items():
            if not 0 <= dim < tensor.dim():
                raise ValueError(
                    f"dynamic: {name} has no dimension {dim}; its shape is {tuple(tensor.shape)}"
                )
            if known.setdefault(size, tensor.shape[dim]) != tensor.shape[dim]:
                raise ValueError(
                    f"dynamic: {size} is {known[size]} in one input and {tensor.shape[dim]} in "
                    f"{name}; sizes that differ need names of their own"
                )
            found.setdefault(id(tensor), OpenSizes())[dim] = size
    return found
