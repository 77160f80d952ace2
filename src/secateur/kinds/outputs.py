"""Filters, neurons and heads: output channels, with everything that is tied to them."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.groups.groups import Groups
from secateur.kinds.build import Ignore, select


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
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs; or several
            of these in a list, so that all that they reach is followed. Costs are the first's.
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
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs; or several
            of these in a list, so that all that they reach is followed. Costs are the first's.
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


def heads(
    model: nn.Module, example: Any, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()
) -> Groups:
    """Group the heads of attention.

    A group is one head of keys and values with all the query heads that read it (one, or several in
    grouped-query attention): their weight rows, biases and position biases, in separate layers, in
    one layer for all three, or in nn.MultiheadAttention. It is dead when all of these are zero;
    removing it also removes the columns of the projection behind. Where a single key/value head
    serves all queries, a group is one query head, and those columns have to be zero too.

    Removal is exact, and head sizes stay. Numbers of heads that modules store follow; so do
    reshapes to the model's width in the code of an attention. An nn.MultiheadAttention, which
    insists on heads x size == embed_dim, is replaced by an equal module that doesn't. Attention
    whose code takes neither is refused, with the reason.

    Args:
        model: any module; it runs in eval mode and is left as it was.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs; or several
            of these in a list, so that all that they reach is followed. Costs are the first's.
        ignore: names, modules or module types whose heads stay.

    Returns:
        One group a key/value head, one layer an attention (or several, where they share heads).

    Raises:
        ValueError: an unknown name in `ignore`, or no head can be removed (the reasons are listed).
        RuntimeError: the model does not run on the example.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        >>> sc.heads(model, torch.ones(1, 5, 16))
        Groups(4: self_attn 4)
    """
    return select(
        model,
        example,
        kind="heads",
        wanted=lambda axis: "heads" in axis.roles,
        ignore=ignore,
        keep="batch",
    )
