"""Neurons: the hidden units of linear layers, the width of feed-forward networks."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.groups.groups import Groups
from secateur.groups.select import Ignore, select


def neurons(
    model: nn.Module, example: Any, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()
) -> Groups:
    """Group the hidden units of linear layers.

    A group is one unit: the weight row that makes it, its bias, its normalisation, and the rows of
    every linear layer whose output is added to it or multiplied with it (the two branches of a
    gated feed-forward network). It is dead when all of these are zero. Units that attention reads
    are `heads`, not neurons; units that leave the model are never grouped.

    Args:
        model: any module; it runs once in eval mode and is left as it was.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
        ignore: names, modules or module types whose units stay.

    Returns:
        One group a unit, one layer a set of coupled linear layers.

    Raises:
        ValueError: an unknown name in `ignore`, or no unit can be removed (the reasons are listed).
        RuntimeError: the model does not run on the example.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> sc.neurons(model, torch.ones(1, 4))
        Groups(6: 0 6)
    """
    return select(
        model,
        example,
        kind="neurons",
        wanted=lambda axis: (
            "linear" in axis.roles and not axis.roles & {"filter", "attention", "inside"}
        ),
        ignore=ignore,
    )
