"""Heads: the key/value heads of attention, each with its query heads."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.groups.groups import Groups
from secateur.groups.select import Ignore, select


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
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
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
