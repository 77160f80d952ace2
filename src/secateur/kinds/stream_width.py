"""Width: the channels of the residual stream, which normalisations mix.

In: a model. Out: groups of channels; and, for each normalisation that mixes them, the `Recipe`
under which it computes without channels that are zero what it computed with them, found by trying
and not by its class, or the reason why there is none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.groups.coupling import Norm
from secateur.groups.groups import Groups
from secateur.kinds.build import Ignore, select
from secateur.surgery.cut import cut
from secateur.surgery.norms import EPSILONS, FullSizeNorm, numbers, rescale_
from secateur.surgery.plan import Plan
from secateur.tracing.axes import Axis, Trace
from secateur.tracing.model_checks import check_model
from secateur.tracing.statistics import Recipe, Statistic
from secateur.utils.comparison import relative_difference


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
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs; or several
            of these in a list, so that all that they reach is followed. Costs are the first's.
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
    model = check_model(model)
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


SCALES = (1.0, 1e-2, 1e-3, 1e-4, 1e-6)  # of the inputs that are tried: where eps counts, and not
TOLERANCE = 1e-5  # some compute in float32, whatever they are given


def find_recipe(model: nn.Module, statistic: Statistic) -> Recipe | str:
    """The recipe of the module that takes a statistic, or why it has none."""
    module = model.get_submodule(statistic.module)
    where = f"{statistic.reason} in {statistic.module or 'the model'} ({type(module).__name__})"
    if any(True for _ in module.children()) or not statistic.shape:
        return (
            f"{where}, whose code does more than normalise: put the normalisation into a module "
            "of its own, which is given one tensor"
        )
    try:
        trial = _NormPair(module, statistic)
        if trial.changes_shape():
            return f"{where}, which is no normalisation: its output has another shape"
        exact = not trial.ignores_the_mean()
        for recipe in _recipes(module, exact):
            if trial.holds(recipe):
                return recipe
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"{where}, which does not run on its own: {first}"
    if not exact:
        return Recipe(exact=False)
    return (
        f"{where}, which has no scale and eps that make up for missing channels (a parameter, and "
        f"a number called {' or '.join(EPSILONS[:3])})"
    )


def _recipes(module: nn.Module, exact: bool) -> Iterator[Recipe]:
    """What may make up for missing channels, the likeliest first."""
    epsilons: list[tuple[str, float]] = [("", 0.0)]
    for name in EPSILONS:
        if isinstance(getattr(module, name, 0), (float, type(None))):
            epsilons = [(name, 1.0), *epsilons, (name, 0.5)]
    names = [name for name, _ in module.named_parameters(recurse=False)]
    scales = [*product(names, (0.0, 1.0), (0.5, 1.0)), ("", 0.0, 0.0)]
    for (scale, offset, power), (epsilon, epsilon_power) in product(scales, epsilons):
        yield Recipe(exact, scale, offset, power, epsilon, epsilon_power)


class _NormPair:
    """A normalisation whose every other channel is zero, beside one that lost these channels."""

    def __init__(self, module: nn.Module, statistic: Statistic) -> None:
        draw = torch.Generator().manual_seed(0)
        self.full = copy.deepcopy(module).double().eval()  # rounding would hide what eps does
        on_meta = any(parameter.is_meta for parameter in module.parameters())
        self.full = self.full.to_empty(device="cpu") if on_meta else self.full.cpu()
        parameters = list(self.full.parameters())
        for parameter in parameters:  # any values tell how they are used
            parameter.data = 1 + 0.3 * torch.randn(
                parameter.shape, generator=draw, dtype=torch.float64, device="cpu"
            )
        self.size, self.dim = len(statistic.atoms), statistic.dim
        self.dead = np.arange(self.size) % 2 == 1
        few = all(parameter.ndim == 1 for parameter in parameters)
        shape = [min(size, 4) if few else size for size in statistic.shape]
        shape[self.dim] = self.size
        self.x = torch.randn(shape, generator=draw, dtype=torch.float64, device="cpu")
        self.kept = {
            name: {dim: tuple(range(0, self.size, 2))}
            for name, parameter in self.full.named_parameters()
            for dim, size in enumerate(parameter.shape)
            if size == self.size
        }

    @torch.no_grad()
    def changes_shape(self) -> bool:
        return self.full(self.x).shape != self.x.shape

    @torch.no_grad()
    def ignores_the_mean(self) -> bool:
        """Whether only differences between channels count: zeros then count, too."""
        return relative_difference(self.full(self.x), self.full(self.x + 1)) < TOLERANCE

    @torch.no_grad()
    def holds(self, recipe: Recipe) -> bool:
        """Whether the recipe makes up for the missing channels, whatever the inputs' scale.

        One that isn't exact has to where the channels that stay have the mean zero.
        """
        norm = Norm("", self.dim, np.arange(self.size), recipe)
        small = copy.deepcopy(self.full)
        cut(small, Plan(self.kept, norms=numbers(self.full, [norm], self.dead)))
        rescale_(small, [norm], self.dead)
        kept = norm.kept(self.dead)
        x = self.x.index_select(self.dim, torch.tensor(kept, device="cpu"))
        x = x if recipe.exact else x - x.mean(self.dim, keepdim=True)
        full_size_norms = FullSizeNorm(self.full, self.dim, kept, self.size)
        shift = full_size_norms(0 * x)
        pairs = ((full_size_norms(scale * x) - shift, small(scale * x) - shift) for scale in SCALES)
        return all(relative_difference(a, b) < TOLERANCE for a, b in pairs)
