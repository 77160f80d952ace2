"""Statistics over labelled axes, found while the model runs: which module takes them, and where.

In: an operator that mixes the channels of an axis, such as the mean in a normalisation. Out: the
module whose code was running, and where its input has that axis.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from secateur.tracing.labels import Labels, varied


@dataclass(frozen=True)
class Statistic:
    """A statistic that mixes the channels of an axis.

    Attributes:
        module: the innermost module that was being called; "" is the model itself.
        reason: what it does to the axis.
        atoms: the atoms along the axis, (size,), in the order of the module's input if it has them.
        shape: of the module's only input; () where it has others, or not this axis.
        dim: the axis in it, counted from the end; 0 where `shape` is ().
        recipe: how the module follows when channels leave, once that is known.
    """

    module: str
    reason: str
    atoms: np.ndarray
    shape: tuple[int, ...] = ()
    dim: int = 0
    recipe: Recipe | None = None


def statistics(names: Mapping[int, str], labels: Labels, start: int) -> Iterator[Statistic]:
    """What `labels` noted as inexact from the entry `start` on; `names` maps id(module) to name."""
    module, x = _running()
    name = names.get(id(module), "")
    for atoms, reason in labels.inexact[start:]:
        found = None if x is None else _axis(labels, x, atoms)
        if x is None or found is None:
            yield Statistic(name, reason, atoms)
        else:
            dim, line = found
            yield Statistic(name, reason, line, tuple(x.shape), dim - x.ndim)


def _running() -> tuple[nn.Module | None, Tensor | None]:
    """The innermost module that is being called, and what it was given if that is one tensor."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "_call_impl":
            module = frame.f_locals.get("self")
            given = (*frame.f_locals.get("args", ()), *frame.f_locals.get("kwargs", {}).values())
            alone = len(given) == 1 and isinstance(given[0], Tensor)
            return (module if isinstance(module, nn.Module) else None), given[0] if alone else None
        frame = frame.f_back
    return None, None


def _axis(labels: Labels, x: Tensor, atoms: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The dimension of `x` along which these atoms lie, and all atoms there."""
    wanted = torch.from_numpy(atoms)
    for plane in labels.planes(x):
        if len(varied(plane)) == 1 and bool(torch.isin(plane, wanted).any()):
            return varied(plane)[0], plane.reshape(-1).numpy()
    return None


@dataclass(frozen=True)
class Recipe:
    """What makes up for channels that leave a normalisation: numbers times powers of r = d/d'.

    Attributes:
        exact: whether the rest then comes out as before; if not, it does for inputs of mean zero.
        scale: the parameter that takes up r ** power, or "".
        offset: the channels are scaled by offset + parameter.
        power: of r.
        epsilon: the attribute that takes up r ** epsilon_power, or "".
        epsilon_power: of r.
    """

    exact: bool
    scale: str = ""
    offset: float = 0.0
    power: float = 0.0
    epsilon: str = ""
    epsilon_power: float = 0.0
