"""Running a model whose parameters have no values, being on the meta device.

In: one operator call. Out: its result, with values where all that goes in has some: positions and
masks are computed for real, and what the code asks of them has an answer. Where a parameter went
in, the result has a shape and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.tracing.model_checks import is_on_meta


def without_values(func: Any, args: Any, kwargs: Any) -> Any:
    """Call an operator of a model that is on the meta device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not any(tensor.is_meta for tensor in tensors):
        out = func(*args, **kwargs)
        if any(map(_counts, tree_leaves(out))) and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": torch.device("cpu")})
        return out
    moved: dict[int, Tensor] = {}  # what was moved -> what it was before
    args, kwargs = tree_map(lambda leaf: _moved(leaf, moved), (args, kwargs))
    out = func(*args, **kwargs)
    # what is written into stays the tensor that the model holds
    return tree_map(lambda leaf: moved.get(id(leaf), leaf), out)


def beside(model: nn.Module, example: Any) -> Any:
    """The example for a model on the meta device: numbers without values, like its parameters.

    Integers (words, positions) keep theirs.
    """
    if not is_on_meta(model):
        return example

    def move(leaf: Any) -> Any:
        return leaf.to("meta") if isinstance(leaf, Tensor) and not _counts(leaf) else leaf

    return tree_map(move, example)


def _counts(leaf: Any) -> bool:
    """Whether it is a tensor of integers or truth values, which code may ask about."""
    return isinstance(leaf, Tensor) and not (leaf.is_floating_point() or leaf.is_complex())


def _moved(leaf: Any, moved: dict[int, Tensor]) -> Any:
    if not isinstance(leaf, Tensor) or leaf.is_meta:
        return leaf
    there = leaf.to("meta")
    moved[id(there)] = leaf
    return there
