"""Channels: the input channels of layers, seen from the weights that read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from secateur.groups.admission import admitted
from secateur.groups.groups import Groups
from secateur.groups.select import Ignore, select
from secateur.groups.trace import Axis, Trace


def channels(
    model: nn.Module, example: Any, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()
) -> Groups:
    """Group the input channels of layers: what reads a channel lives and dies together.

    A group is the slice weight[:, i] of every convolution and linear layer that reads one channel.
    When all of these are zero nobody reads the channel, so its makers (filters, biases, norms),
    which needn't be zero, are removed with it. Removal is always exact: no constant is left behind,
    whatever the activations and paddings. A channel that something else than a weight reads
    (attention's product of queries and keys, a sum over channels) and the model's inputs, which
    keep their shape, are refused by name.

    Args:
        model: any module; it runs once in eval mode and is left as it was.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
        ignore: names, modules or module types that go on reading all their channels.

    Returns:
        One group a channel, one layer a set of coupled channels, named after what reads it first.

    Raises:
        ValueError: an unknown name in `ignore`, or no channel can be removed (reasons are listed).
        RuntimeError: the model does not run on the example.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
        >>> groups = channels(model, torch.ones(1, 3, 8, 8))
        >>> groups, groups.refused[-1]
        (Groups(8: 2 8), ('0', 3, "no weight makes it: the model's input keeps its shape"))
    """
    model = admitted(model)
    return select(
        model,
        example,
        kind="channels",
        wanted=lambda axis: True,
        ignore=ignore,
        view=lambda found: _Reading(model, found).trace(),
    )


class _Reading:
    """Which parameters read each channel of a trace."""

    def __init__(self, model: nn.Module, found: Trace) -> None:
        self.found = found
        self.readers: dict[int, list[str]] = {}  # component -> the parameters that read it
        self.inputs: list[tuple[str, np.ndarray]] = []  # what reads components that nothing makes
        made = np.zeros(found.component.max(initial=-1) + 1, bool)
        for axis in found.axes:
            made[axis.components] = True
        for item in found.tracked:
            for dim in range(item.tensor.ndim) if item.is_parameter else ():
                atoms = item.atoms(dim)
                if item.first_atoms[dim] < 0 or found.produces[atoms].all():
                    continue
                numbers = np.unique(found.component[atoms[~found.produces[atoms]]])
                for number in numbers[made[numbers]].tolist():
                    self.readers.setdefault(number, []).append(item.name)
                owner = model.get_submodule(item.name.rpartition(".")[0])
                is_grouped = getattr(owner, "groups", 1) != 1  # its inputs are in its groups
                if dim < 2 and not made[numbers].any() and not is_grouped:
                    self.inputs.append((item.name, numbers))

    def trace(self) -> Trace:
        """The same trace seen from the other side: what reads an axis stands for what makes it."""
        return replace(self.found, produces=~self.found.produces, axes=tuple(self._axes()))

    def _axes(self) -> Iterator[Axis]:
        taken: set[str] = set()
        for axis in self.found.axes:
            names = [self.readers.get(number, []) for number in axis.components.tolist()]
            reading = tuple(dict.fromkeys(name for some in names for name in some))
            if not reading:
                continue  # the outputs of the model, queries and keys
            yield Axis(
                _unused_name(reading[0], taken),
                axis.components,
                reading,
                frozenset(),
                axis.protected or _read_by_others(axis, all(names)),
            )
        for name, numbers in self.inputs:
            yield Axis(_unused_name(name, taken), numbers, (name,), frozenset(), INPUT)


INPUT = "no weight makes it: the model's input keeps its shape"


def _read_by_others(axis: Axis, all_read: bool) -> str:
    """Why an axis can't be judged by the weights that read it, or ""."""
    if "attention" in axis.roles:
        return "attention reads it; group it with secateur.heads"
    return "" if all_read else "some of its channels are read by no weight"


def _unused_name(parameter: str, taken: set[str]) -> str:
    """The name of the parameter's module, of the parameter, or a numbered one."""
    owner = parameter.removesuffix(".weight")
    names = [owner, parameter, *(f"{owner}+{n}" for n in range(1, len(taken) + 2))]
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name
