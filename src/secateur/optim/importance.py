"""How strongly each group's square counts: its importance d, the weights of the envelope.

In: group norms, and the gradients where an importance is learned. Out: one number a group.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.groups import Groups


class Importance:
    """Gives the importance of groups at one step; its state travels with the optimizer's."""

    def look(self, groups: Groups) -> Tensor | None:
        """What it learns from, (m,), before a step changes anything; None where it doesn't learn.

        It is finite only where all gradients of the groups are.
        """
        return None

    def learn(self, seen: Tensor, steps: int = 1) -> None:
        """Learn from what `look` saw, which is finite; `steps` have passed since the last time."""

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        """The importance d for group norms a, both (m,)."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What it has learned so far."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there."""


class Fixed(Importance):
    """The same throughout; 1.0 is the paper's plain norms."""

    def __init__(self, given: float | Tensor, groups: Groups) -> None:
        values = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
        if values.shape not in ((), (len(groups),)):
            raise ValueError(
                f"importance: expected a number or one for each of {len(groups)} groups, "
                f"shape ({len(groups)},); got {tuple(values.shape)}"
            )
        if not bool((torch.isfinite(values) & (values > 0)).all()):
            raise ValueError("importance: every number must be finite and above 0")
        self.values = values.numpy().copy()

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.values, norms.shape)


class LayerNormalised(Importance):
    """d_j = 1 / the mean of a^2 over the layer of group j.

    A group then counts by its share of its layer, so that layers of different scale compete fairly:
    under BatchNorm the norm of a filter is arbitrary.
    """

    def __init__(self, groups: Groups) -> None:
        self.layer_ids = groups.layer_ids
        self.sizes = np.bincount(self.layer_ids)

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        means = np.bincount(self.layer_ids, norms * norms) / self.sizes
        return 1 / np.where(means > 0, means, 1)[self.layer_ids]


class Curvature(Importance):
    """d_j: how much the loss curves along group j, as a share of the groups' mean.

        d_j = running mean of sum_i (g_i x_i)^2 / a_j^2

    over the parameters x_i of the group and their gradients g_i; a_j is the group's norm. The means
    of g_i^2 are the diagonal of the empirical Fisher matrix, which stands for the curvature. So the
    saliency a^2 d / c is optimal brain damage's, per unit of cost: to second order, what the loss
    rises by when the group goes. Before the first gradient all are 1.

    Source: LeCun, Denker and Solla, "Optimal brain damage", NIPS 1989.
    """

    def __init__(self, groups: Groups, memory: float = 0.98) -> None:
        self.memory = memory
        self.mean = torch.zeros(len(groups), dtype=torch.float64)

    def look(self, groups: Groups) -> Tensor:
        products = groups.products([member.parameter.grad for member in groups.members])
        squares = groups.squares()
        return products / torch.where(squares > 0, squares, 1)

    def learn(self, seen: Tensor, steps: int = 1) -> None:
        old = self.memory**steps
        self.mean.mul_(old).add_(seen.cpu().double(), alpha=1 - old)

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        mean = self.mean.numpy()
        return above_zero(mean / mean.mean()) if mean.any() else np.ones_like(norms)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])


def importance_of(
    given: Any, groups: Groups, geometry: str = "euclidean", *, has_lambda: bool = False
) -> Importance:
    """The importance that an argument of `Proximal` asks for.

    "auto" is "curvature", which compares groups of different layers by what the loss would lose
    (docs/accuracy.md has the figures). Plain norms where a penalty has a lambda, as in the paper,
    and in the optimizer's geometry, which has a curvature of its own.

    Raises:
        ValueError: an unknown name, or a number that isn't finite and above 0.
    """
    name = given if isinstance(given, str) else None
    if name == "auto":
        plain = has_lambda or geometry != "euclidean"
        return Fixed(1.0, groups) if plain else Curvature(groups)
    if name == "layer":
        return LayerNormalised(groups)
    if name == "curvature":
        return Curvature(groups)
    if isinstance(given, Tensor) or (isinstance(given, Real) and not isinstance(given, bool)):
        return Fixed(given, groups)  # pyright: ignore[reportArgumentType]
    found = type(given).__name__ if name is None else repr(name)
    raise ValueError(
        f"importance={found}: expected 'auto', 'layer' (norms relative to their layer's), "
        "'curvature', a number (1.0: the paper's plain norms) or a tensor of one a group"
    )


def above_zero(values: np.ndarray) -> np.ndarray:
    """Raise zeros to a negligible share of the largest value: importance and costs are above 0."""
    return np.maximum(values, max(float(values.max(initial=0)) * 1e-12, 1e-300))
