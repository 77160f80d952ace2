"""How a normalisation follows when channels leave that its statistic is taken over.

In: which groups leave and, for each normalisation, how its scale and eps make up for them. Out: the
rescaled scale, and the attributes that hold another value. That the channels which leave are zero
makes a mean over all d channels the mean over the d' others times d'/d, so that, with r = d/d',

    w x / sqrt(mean_d(x^2) + eps)  =  (w sqrt(r)) x / sqrt(mean_d'(x^2) + r eps)
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.groups.coupling import Norm
from secateur.surgery.module_removal import name_after

EPSILONS = (  # attributes that hold the number a normalisation adds to its statistic
    "eps", "variance_epsilon", "epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_eps",
    "rms_norm_eps", "_eps",
)  # fmt: skip
SHAPES = ("normalized_shape",)  # attributes that hold sizes of the tensor that is normalised

Numbers = dict[str, dict[str, float | tuple[int, ...]]]  # module -> attribute -> value


def numbers(model: nn.Module, norms: Iterable[Norm], dead: np.ndarray) -> Numbers:
    """The attributes of normalisations that have another value without the dead groups.

    Args:
        model: at full size.
        norms: its normalisations.
        dead: which groups leave, bool of shape (m,).
    """
    found: Numbers = {}
    for norm in norms:
        kept = norm.kept(dead)
        if len(kept) < len(norm.entries):
            module = model.get_submodule(norm.module)
            values: dict[str, float | tuple[int, ...]] = {}
            values.update(_shapes(module, norm.dim, len(norm.entries), len(kept)))
            if norm.recipe.epsilon:
                ratio = len(norm.entries) / len(kept)
                eps = epsilon(module, norm.recipe.epsilon)
                values[norm.recipe.epsilon] = eps * ratio**norm.recipe.epsilon_power
            if values:
                found[norm.module] = values
    return found


def has_number(module: nn.Module | None, attribute: str) -> bool:
    """Whether a module has this attribute, and it is one that a plan may set."""
    return attribute in (*EPSILONS, *SHAPES) and hasattr(module, attribute)


def epsilon(module: nn.Module, attribute: str) -> float:
    """The number that a normalisation adds to its statistic; None is that of its number type."""
    value = getattr(module, attribute)
    if value is not None:
        return float(value)
    dtype = next((p.dtype for p in module.parameters(recurse=False)), torch.float32)
    return torch.finfo(torch.promote_types(dtype, torch.float32)).eps


def _shapes(
    module: nn.Module, dim: int, before: int, after: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in SHAPES:
        value = getattr(module, name, None)
        if isinstance(value, (tuple, list)) and len(value) >= -dim and value[dim] == before:
            sizes = list(value)
            sizes[dim] = after
            yield name, tuple(map(int, sizes))
        elif isinstance(value, (tuple, list)) and list(value) == [before]:
            yield name, (after,)  # the module turns its input round before it normalises


@torch.no_grad()
def rescale_(small: nn.Module, norms: Iterable[Norm], dead: np.ndarray) -> None:
    """Let the scales of normalisations take up what is missing, in place; tied ones once."""
    done: set[int] = set()
    for norm in norms:
        kept, recipe = norm.kept(dead), norm.recipe
        if recipe.scale and len(kept) < len(norm.entries):
            parameter = small.get_submodule(norm.module).get_parameter(recipe.scale)
            if id(parameter) not in done:
                done.add(id(parameter))
                factor = (len(norm.entries) / len(kept)) ** recipe.power
                old = parameter.to("cpu", torch.float64)
                parameter.copy_((old + recipe.offset) * factor - recipe.offset)


class FullSizeNorm:
    """A normalisation's forward at full size, in which the missing channels are zeros.

    Args:
        full: the normalisation with all its channels.
        dim: the axis in its input, counted from the end.
        kept: the indices that its input has.
        size: of the axis.
    """

    def __init__(self, full: nn.Module, dim: int, kept: tuple[int, ...], size: int) -> None:
        self.full, self.dim, self.kept, self.size = full, dim, kept, size

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        (x,) = (*args, *kwargs.values())
        indices = torch.tensor(self.kept, device=x.device)
        shape = list(x.shape)
        shape[self.dim] = self.size
        full = x.new_zeros(shape).index_copy(self.dim, indices, x)
        return self.full(full).index_select(self.dim, indices)


@contextmanager
def full_size_norms(
    small: nn.Module,
    model: nn.Module,
    norms: Iterable[Norm],
    dead: np.ndarray,
    out: Collection[str] = (),
) -> Iterator[None]:
    """Inside, normalisations of `small` that can't follow exactly are those of `model`.

    What then still differs between the two models has another cause. `out` are the blocks of
    `model` that left their lists.
    """
    replaced: list[nn.Module] = []
    modules = dict(small.named_modules())
    try:
        for norm in norms:
            module = modules.get(name_after(norm.module, out) or "")
            if module is not None and not norm.recipe.exact:
                full = copy.deepcopy(model.get_submodule(norm.module))
                forward: Any = FullSizeNorm(full, norm.dim, norm.kept(dead), len(norm.entries))
                module.forward = forward
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            vars(module).pop("forward", None)
