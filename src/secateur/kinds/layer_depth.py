"""Layers: depth, one group for each residual branch."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.groups.groups import Groups
from secateur.kinds.build import Ignore
from secateur.kinds.residual import find_branches
from secateur.kinds.whole_modules import from_branches
from secateur.tracing.graph import record_graph
from secateur.tracing.model_checks import check_model


def depth(
    model: nn.Module, example: Any, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()
) -> Groups:
    """Group the residual branches of a model: its depth.

    A group is one branch f of x + f(x): the parameters nearest to the sum that make f(x) zero, such
    as the last projection with its bias, the last BatchNorm's scale and shift, or a layer scale. It
    is dead when these are zero. In g(x) + f(x), where g projects x to another size, it is f.
    Removing it removes every module that only this branch reads, with all its parameters, FLOPs and
    memory; what is left of it are zeros, added to the stream.

    A block that only passes its input on once all its branches are dead leaves its nn.ModuleList or
    nn.Sequential: the list gets shorter, and what counts its blocks follows (layer_idx, depths and
    lists by layer in configurations). Where that fails it returns its input; where it does more,
    such as a norm behind the sum, it stays.

    Removal is exact. What several branches read together stays until the last of them goes, and so
    does what the model returns: trace a language model with use_cache=False. The small model then
    generates with a cache, in which missing attention keeps its place.

    Branches are refused by name where no module could be left out, where a module is called
    more than once, or where the shape of what it returns doesn't follow from what it is given.

    Args:
        model: any module; it runs in eval mode and is left as it was.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs; or several
            of these in a list, so that all that they reach is followed. Costs are the first's.
        ignore: names, modules or module types whose branches stay.

    Returns:
        One group a branch, named after a module of it, in one layer: `Budget(at_least=1)` keeps one
        branch of the whole model.

    Raises:
        ValueError: an unknown name in `ignore`, or no branch can be removed (the reasons are
            listed).
        RuntimeError: the model does not run on the example.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        >>> list(sc.depth(model, torch.ones(1, 5, 16)).names)
        ['self_attn', 'linear2']
    """
    model = check_model(model, seen="depth")
    trace, run = record_graph(model, example)
    found = [("depth", branch) for branch in find_branches(model, run)]
    return from_branches(model, example, trace, found, kind="depth", ignore=ignore, run=run)
