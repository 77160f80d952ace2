"""How strongly each group's square counts: the weights d of the envelope.

In: group norms, and the gradients where a weighting needs them. Out: one weight a group.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from secateur.groups import Groups


class Weighting(Protocol):
    """Gives the weights at one step; its state travels with the optimizer's."""

    def observe(self, groups: Groups) -> None:
        """Look at the gradients, before the optimizer's step."""

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        """Weights d, (m,), for group norms a, (m,)."""
        ...


class Fixed:
    """The same weights throughout; 1.0 is the paper's plain norms."""

    def __init__(self, weights: float | Tensor, groups: Groups) -> None:
        values = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
        if values.shape not in ((), (len(groups),)):
            raise ValueError(
                f"weights: expected a number or one weight for each of {len(groups)} groups, "
                f"shape ({len(groups)},); got {tuple(values.shape)}"
            )
        if not bool((torch.isfinite(values) & (values > 0)).all()):
            raise ValueError("weights: every weight must be finite and above 0")
        self.weights = values.numpy()

    def observe(self, groups: Groups) -> None:
        pass

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.weights, norms.shape)


class LayerNormalised:
    """d_j = 1 / the mean of a^2 over the layer of group j.

    A group then counts by its share of its layer, so that layers of different scale compete fairly:
    under BatchNorm the norm of a filter is arbitrary.
    """

    def __init__(self, groups: Groups) -> None:
        self.layer_ids = groups.layer_ids
        self.sizes = np.bincount(self.layer_ids)

    def observe(self, groups: Groups) -> None:
        pass

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        means = np.bincount(self.layer_ids, norms**2) / self.sizes
        return 1 / np.where(means > 0, means, 1)[self.layer_ids]


class Curvature:
    """d_j = a running mean of the squared gradient over group j: its mean Fisher diagonal.

    The saliency a^2 d / c is then optimal brain damage's, per unit of cost (math.md, section 4).
    """

    def __init__(self, groups: Groups, memory: float = 0.98) -> None:
        self.memory = memory
        self.sizes = _elements(groups)
        self.mean = torch.zeros(len(groups), dtype=torch.float64)
        self.seen = 0

    def observe(self, groups: Groups) -> None:
        total = torch.zeros_like(self.mean)
        for member in groups.members:
            if member.parameter.grad is not None:
                ids, norms = member.reduce(2, member.parameter.grad)
                total.index_add_(0, ids.cpu(), norms.cpu().double().square_())
        self.mean.mul_(self.memory).add_(total / self.sizes, alpha=1 - self.memory)
        self.seen += 1

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        values = (self.mean / (1 - self.memory ** max(self.seen, 1))).numpy()
        # A group that never got a gradient keeps a tiny weight: weights lie above 0.
        return np.maximum(values, max(values.max(initial=0) * 1e-12, 1e-300))


def _elements(groups: Groups) -> Tensor:
    """The number of parameter elements in each group, (m,)."""
    total = torch.zeros(len(groups), dtype=torch.float64)
    for member in groups.members:
        ones = torch.ones((), device=member.parameter.device).expand(member.parameter.shape)
        ids, norms = member.reduce(2, ones)
        total.index_add_(0, ids.cpu(), norms.cpu().double().square_())
    return total


def weighting(weights: Any, groups: Groups) -> Fixed | LayerNormalised | Curvature:
    """The weighting that `weights` asks for.

    "auto" is "layer" where any layer of groups is followed by a normalisation, which makes its scale
    arbitrary, and plain norms elsewhere: without one, norms compare layers well.
    """
    if isinstance(weights, str):
        if weights == "auto":
            free = any(layer.normalised for layer in groups.layers)
            return LayerNormalised(groups) if free else Fixed(1.0, groups)
        named = {"layer": LayerNormalised, "curvature": Curvature}
        if weights not in named:
            raise ValueError(
                f"weights={weights!r}: expected 'auto', 'layer' (norms relative to their layer's), "
                "'curvature', a number (1.0: the paper's plain norms) or a tensor of one weight a "
                "group"
            )
        return named[weights](groups)
    if not isinstance(weights, (Real, Tensor)):
        raise ValueError(
            f"weights: expected a name, a number or a tensor, got {type(weights).__name__}"
        )
    return Fixed(weights, groups)  # pyright: ignore[reportArgumentType]
