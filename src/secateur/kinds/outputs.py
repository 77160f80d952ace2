"""Filters: the output channels of convolutions, with everything that is tied to them."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.groups.groups import Groups
from secateur.groups.select import Ignore, select


def filters(
    model: nn.Module, example: Any, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()
) -> Groups:
    """Group the output channels of every convolution.

    A group is one channel: the filter that makes it, its bias, the BatchNorm scale and shift behind
    it, the depthwise kernel that follows, and the filters of every layer whose output is added to
    it. It is dead when all of these are zero. Removing it also removes the weights that read it,
    which needn't be zero. Channels that leave the model are never grouped.

    Args:
        model: any module; it runs once in eval mode and is left as it was.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
        ignore: names, modules or module types whose channels stay.

    Returns:
        One group a channel, one layer a set of coupled convolutions; `print(groups.summary())`.

    Raises:
        ValueError: an unknown name in `ignore`, or no filter can be removed (it lists the reasons).
        RuntimeError: the model does not run on the example.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
        >>> sc.filters(model, torch.ones(1, 3, 8, 8))
        Groups(8: 0 8)
    """
    return select(
        model, example, kind="filters", wanted=lambda axis: "filter" in axis.roles, ignore=ignore
    )
