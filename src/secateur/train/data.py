"""What a training loop needs to know about data: loaders, a loss, a metric, one example.

In: whatever a user's data function returned. Out: a `Data`; batches split into inputs and target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map

from secateur.utils.batches import Inputs, split, to_device


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """The default loss: cross entropy of the model's logits."""
    return functional.cross_entropy(logits(output), target)


def accuracy(output: Any, target: Tensor) -> float:
    """The default metric: the share of targets whose logit is the largest along dimension 1."""
    return (logits(output).argmax(1) == target).float().mean().item()


def logits(output: Any) -> Tensor:
    """A model's logits: its output, the attribute or entry `logits`, or the first of several.

    Raises:
        TypeError: there are none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    found = getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(
        f"the model returned a {type(output).__name__} without logits; let the data function "
        "return an object with a loss(output, target) and a metric(output, target) of your own"
    )


@dataclass(frozen=True)
class Data:
    """The data that a network is trained and tested on.

    A batch is a tuple or list whose last entry is the target and whose other entries are the
    model's positional inputs, or a mapping whose entry "labels" is the target and whose other
    entries are the model's keyword inputs.

    Attributes:
        train_loader: batches, again and again, with a length: a DataLoader or a list.
        test_loader: batches.
        loss: (output, target) -> a scalar tensor, the mean over the batch.
        metric: (output, target) -> a number, the mean over the batch; reported by its name.
    """

    train_loader: Any
    test_loader: Any
    loss: Callable[[Any, Any], Tensor] = cross_entropy
    metric: Callable[[Any, Any], Any] = accuracy

    @classmethod
    def of(cls, found: Any) -> Data:
        """Read what a data function returned.

        Args:
            found: (train_loader, test_loader), or an object with attributes of these names and, if
                it likes, `loss` and `metric`.

        Raises:
            TypeError: it is neither, or the training loader has no length.
        """
        if isinstance(found, cls):
            data = found
        elif isinstance(found, (tuple, list)) and len(found) == 2:
            data = cls(*found)
        elif hasattr(found, "train_loader") and hasattr(found, "test_loader"):
            names = ("train_loader", "test_loader", "loss", "metric")
            own = {name: getattr(found, name, None) for name in names}
            data = cls(**{name: value for name, value in own.items() if value is not None})
        else:
            size = f" of {len(found)}" if isinstance(found, (tuple, list)) else ""
            raise TypeError(
                "expected (train_loader, test_loader), or an object with these attributes and "
                f"optionally loss and metric; got a {type(found).__name__}{size}"
            )
        if not hasattr(data.train_loader, "__len__") or not len(data.train_loader):
            raise TypeError(
                f"the training loader, a {type(data.train_loader).__name__}, has no length or is "
                "empty; the run's steps are counted before it starts: use a DataLoader or a list"
            )
        return data

    @property
    def metric_name(self) -> str:
        """What the metric is called in tables."""
        return getattr(self.metric, "__name__", type(self.metric).__name__)

    def example(self, device: torch.device | str = "cpu") -> Any:
        """The first row of the first test batch, as the model takes it.

        Raises:
            ValueError: the test loader is empty.
        """
        for batch in self.test_loader:
            inputs = split(batch)[0]
            return tree_map(_first_row_of(_rows(inputs)), to_device(inputs, device))
        raise ValueError("the test loader is empty: there is no batch to take an example from")


def _rows(inputs: Inputs) -> int | None:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return next((len(x) for x in values if isinstance(x, Tensor) and x.ndim), None)


def _first_row_of(rows: int | None) -> Callable[[Any], Any]:
    """Cuts what has as many rows as the batch down to one row; leaves the rest."""

    def first(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == rows
        return leaf[:1].clone() if batched else leaf

    return first
