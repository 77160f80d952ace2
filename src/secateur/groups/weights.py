"""Weights: single parameters, the finest groups there are."""

from __future__ import annotations

from torch import nn

from secateur.groups.elements import Elements
from secateur.groups.eligible import zeros_in_place
from secateur.groups.groups import Groups
from secateur.groups.select import Ignore


def weights(model: nn.Module, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()) -> Groups:
    """Group nothing: every element of every weight stands alone.

    A group is one element of a parameter of two or more dimensions; biases and norms are free. It
    is dead when the element is zero. Nothing is removed: training ends with exactly the budgeted
    number of elements and zeros elsewhere, and `shrink` returns an equal copy and says so. A budget
    counts elements: `Budget(groups=0.1)`. Numbers and names of groups are made when they are read,
    so a million groups are no burden.

    Args:
        model: any module; it is not run.
        ignore: names, modules or module types whose weights stay as they are.

    Returns:
        One group an element, one layer a parameter.

    Raises:
        ValueError: an unknown name in `ignore`, or the model has no such weight.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> groups = weights(model, ignore="2")
        >>> groups, groups.names[23]
        (Groups(24: 0 24), '0[23]')
    """
    return zeros_in_place(
        model,
        ignore,
        kind="weights",
        member=lambda name, weight, start: Elements(name, weight, start),
    )
