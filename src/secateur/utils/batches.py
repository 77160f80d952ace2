"""Batches: split into inputs and target, moved, and given to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

Inputs = tuple[Any, ...] | dict[str, Any]


def split(batch: Any) -> tuple[Inputs, Any]:
    """A batch as the model's inputs and the target.

    Raises:
        TypeError: it is not of the kinds that `Data` describes.

    Example:
        >>> split((torch.zeros(2, 3), torch.tensor([0, 1])))[1]
        tensor([0, 1])
    """
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return tuple(batch[:-1]), batch[-1]
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    raise TypeError(
        "a batch is a tuple (inputs..., target) or a mapping with an entry 'labels'; "
        f"got a {type(batch).__name__}"
        + (f" with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else "")
    )


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """Run a model on a batch's inputs."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def to_device(tree: Any, device: torch.device | str) -> Any:
    """Every tensor of a nest of containers, on a device."""
    return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, tree)
