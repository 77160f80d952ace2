"""Channels and filter shapes: the inputs of layers, seen from the weights that read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from secateur.groups.groups import Groups
from secateur.groups.member import Member
from secateur.kinds.build import Ignore, select
from secateur.kinds.masks import zeros_in_place
from secateur.tracing.axes import Axis, Trace
from secateur.tracing.model_checks import check_model


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
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs; or several
            of these in a list, so that all that they reach is followed. Costs are the first's.
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
    model = check_model(model)
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


def shapes(
    model: nn.Module,
    example: Any = None,
    *,
    ignore: Ignore | str | nn.Module | type[nn.Module] = (),
) -> Groups:
    """Group each position of a convolution's kernel over all of its filters.

    A group is weight[:, i, y, x], the elements that read one position of one input channel in every
    filter (weight[i, :, y, x] in a transposed convolution). It is dead when all of these are zero:
    the position is never read. What then is removed, always exactly:

    - an input channel none of whose positions is read, by this and every other layer that reads it,
      goes with what makes it (as in `channels`);
    - the first and last rows or columns of a kernel that are zero everywhere go, and with each one
      `dilation` of the padding on its side: the output stays where it is. The two sides may lose
      different numbers; where that is more than the padding, the input is cropped. Padding that
      isn't zeros can't make up for more than there is of it, and a transposed convolution only for
      what its output padding allows (conv_kernels.py): there the rest stays.

    All other dead positions stay as zeros, and `shrink` says how many. A budget counts positions:
    `Budget(groups=0.5)`.

    Args:
        model: any module.
        example: inputs on which the model runs once, in eval mode; without them nothing is removed.
        ignore: names, modules or module types whose kernels stay as they are.

    Returns:
        One group a position, one layer a convolution.

    Raises:
        ValueError: an unknown name in `ignore`, or the model has no convolution.

    Example:
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten())
        >>> groups = shapes(model, torch.ones(1, 1, 8, 8))
        >>> _ = groups.scale_(torch.tensor([0.0, 0, 0, 1, 1, 1, 0, 0, 0]))  # the middle row
        >>> sc.shrink(model, groups)[0]
        Conv2d(1, 4, kernel_size=(1, 3), stride=(1, 1), padding=(0, 1))
    """
    model = check_model(model)
    owners = dict(model.named_modules())

    def member(name: str, weight: nn.Parameter, start: int) -> Member | None:
        owner = owners[name.rpartition(".")[0]]
        if not isinstance(owner, _ConvNd):
            return None
        filters = 1 if owner.transposed else 0
        sizes = [1 if dim == filters else size for dim, size in enumerate(weight.shape)]
        count = weight.numel() // weight.shape[filters]
        ids = torch.arange(start, start + count, device="cpu").reshape(sizes)
        return Member(name, weight, ids)

    groups = zeros_in_place(model, ignore, kind="shapes", member=member)
    if example is None:
        return groups
    kept = tree_map(lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x, example)
    return replace(groups, example=kept, coarse=_channels(model, example))


def _channels(model: nn.Module, example: Any) -> Groups | None:
    """The channels that can go when nothing reads them; None if all of them have to stay."""
    try:
        return channels(model, example)
    except ValueError:
        return None
