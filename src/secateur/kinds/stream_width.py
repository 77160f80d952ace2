"""Width: the channels of the residual stream, which normalisations mix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from secateur.groups.admission import admitted
from secateur.groups.groups import Groups
from secateur.groups.norms import Recipe
from secateur.groups.recipes import find_recipe
from secateur.groups.select import Ignore, select
from secateur.groups.statistics import Statistic
from secateur.groups.trace import Axis, Trace


def width(
    model: nn.Module, example: Any, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()
) -> Groups:
    """Group the channels of the residual stream: the model's width.

    A group is one channel: the columns of the embeddings, the rows and biases of every projection
    that writes into the stream. It is dead when all of these are zero. Removing it also removes the
    weights that read it, the head's included, and its place in every normalisation, whose statistic
    is then taken over d' < d channels. Where that is a mean of squares (RMSNorm), the mean over d
    follows from the mean over d', and removal is exact:

        w x / sqrt(mean_d(x^2) + eps)  =  (w sqrt(r)) x / sqrt(mean_d'(x^2) + r eps),   r = d / d'

    The scale w needn't be zero. How a module follows, such as one that scales by 1 + w, is found by
    trying it alone: it has to take its statistic in a module that is given one tensor and keeps its
    eps as an attribute; others are refused by name. LayerNorm also subtracts the mean, which is
    another one over fewer channels. Its groups, with its scale and shift, leave by `shrink(model,
    groups, exact=False)` only, corrected as above; `groups.summary()` says so.

    The stream is protected where it is an input or an output of the model, and where something is
    added to it that no training makes zero (position codes that aren't parameters).

    Args:
        model: any module; it runs in eval mode and is left as it was.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
        ignore: names, modules or module types whose channels stay.

    Returns:
        One group a channel, one layer a set of coupled channels under normalisations.

    Raises:
        ValueError: an unknown name in `ignore`, or no channel can be removed (the reasons are
            listed).
        RuntimeError: the model does not run on the example.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.RMSNorm(8, eps=1e-5), nn.Linear(8, 2))
        >>> groups = width(model, torch.ones(1, 4))
        >>> _ = groups.scale_(torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0]))
        >>> sc.shrink(model, groups)
        Sequential(
          (0): Linear(in_features=4, out_features=4, bias=True)
          (1): RMSNorm((4,), eps=2e-05, elementwise_affine=True)
          (2): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    model = admitted(model)
    return select(
        model,
        example,
        kind="width",
        wanted=lambda axis: bool(axis.mixed),
        ignore=ignore,
        view=lambda found: _Normalised(model, found).trace(),
    )


class _Normalised:
    """A trace in which normalisations follow what leaves, instead of protecting it."""

    def __init__(self, model: nn.Module, found: Trace) -> None:
        self.found = found
        mixed = [axis.components for axis in found.axes if _is_only_mixed(axis)]
        self.statistics = [s for s in found.statistics if self._over(s, *mixed)]
        self.recipes: dict[str, Recipe | str] = {}
        for statistic in self.statistics:
            if statistic.module not in self.recipes:
                self.recipes[statistic.module] = find_recipe(model, statistic)

    def trace(self) -> Trace:
        """The same trace, in which only what normalisations can't follow is protected."""
        known = {name: found for name, found in self.recipes.items() if isinstance(found, Recipe)}
        scales = {f"{name}.{recipe.scale}" for name, recipe in known.items() if recipe.exact}
        produces = self.found.produces.copy()
        for item in self.found.tracked:
            if scales & set(item.names):  # they scale zeros: they needn't be zero
                for dim in range(item.tensor.ndim):
                    atoms = item.atoms(dim)
                    produces[atoms[atoms >= 0]] = False
        return replace(
            self.found,
            produces=produces,
            axes=tuple(self._axis(axis, scales) for axis in self.found.axes),
            statistics=tuple(replace(s, recipe=known.get(s.module)) for s in self.statistics),
        )

    def _axis(self, axis: Axis, scales: set[str]) -> Axis:
        if not _is_only_mixed(axis):
            return axis
        if "attention" in axis.roles:
            return replace(axis, protected=f"{axis.protected}, and {INSIDE_ATTENTION}")
        names = [s.module for s in self.statistics if self._over(s, axis.components)]
        found = {name: self.recipes[name] for name in names}
        reasons = [recipe for recipe in found.values() if isinstance(recipe, str)]
        centred = [name for name, recipe in found.items() if not _is_exact(recipe)]
        more = f" and {len(centred) - 2} more" if len(centred) > 2 else ""
        return replace(
            axis,
            producers=tuple(name for name in axis.producers if name not in scales),
            protected=reasons[0] if reasons else "",
            inexact=f"{SUBTRACTED} {', '.join(centred[:2])}{more}" if centred else "",
        )

    def _over(self, statistic: Statistic, *components: np.ndarray) -> bool:
        """Whether a statistic is taken over any of these components."""
        atoms = statistic.atoms
        mine = self.found.component[atoms[atoms >= 0]]
        return any(bool(np.isin(mine, part).any()) for part in components)


def _is_only_mixed(axis: Axis) -> bool:
    return bool(axis.mixed) and axis.mixed == axis.protected


def _is_exact(recipe: Recipe | str) -> bool:
    return isinstance(recipe, Recipe) and recipe.exact


INSIDE_ATTENTION = "attention reads it: it is the size of a head, no stream"
SUBTRACTED = "a mean over all channels, zeros included, is subtracted by"
