"""How a normalisation follows when channels leave: found by trying, not by its class.

In: a normalisation and the axis that its statistic mixes. Out: the `Recipe` under which it computes
without channels that are zero what it computed with them, or the reason why there is none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from secateur.groups.norms import EPSILONS, Norm, Recipe, Whole, numbers, rescale_
from secateur.groups.plan import Plan
from secateur.groups.statistics import Statistic
from secateur.groups.surgery import cut

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
        trial = _Trial(module, statistic)
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


class _Trial:
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
        return _gap(self.full(self.x), self.full(self.x + 1)) < TOLERANCE

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
        whole = Whole(self.full, self.dim, kept, self.size)
        shift = whole(0 * x)
        pairs = ((whole(scale * x) - shift, small(scale * x) - shift) for scale in SCALES)
        return all(_gap(a, b) < TOLERANCE for a, b in pairs)


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())
