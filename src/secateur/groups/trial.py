"""The numerical check: does a smaller model compute what the zeroed one computes?

In: two models and example inputs. Out: the largest relative difference of their outputs; and,
before training, a trial removal that leaves only groups which can really be removed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.groups.groups import Groups
from secateur.groups.removal import remove
from secateur.groups.trace import as_call, evaluating, plain_kernels, tensors_in

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def difference(model: nn.Module, other: nn.Module, example: Any) -> float:
    """The largest difference between two models' outputs, relative to the outputs' scale.

    Both run in eval mode on the example and on random inputs of another batch size (where the first
    model accepts one).

    Returns:
        max |a - b| / max |a| over all outputs and inputs; inf where their shapes differ.
    """
    worst = 0.0
    with evaluating(model), evaluating(other), torch.no_grad(), plain_kernels():
        for position, (args, kwargs) in enumerate(_variations(example)):
            try:
                expected = list(tensors_in(model(*args, **kwargs)))
            except Exception:
                if position == 0:
                    raise
                continue  # this model has a fixed batch size
            found = list(tensors_in(other(*args, **kwargs)))
            if [t.shape for t in expected] != [t.shape for t in found]:
                return float("inf")
            for a, b in zip(expected, found, strict=True):
                if a.is_floating_point() and a.numel():
                    scale = float(a.abs().max()) or 1.0
                    worst = max(worst, float((a.double() - b.double()).abs().max()) / scale)
    return worst


def _variations(example: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    call = as_call(example)
    yield call
    sizes = {tensor.shape[0] for tensor in tensors_in(call) if tensor.ndim}
    if len(sizes) == 1:
        generator = torch.Generator().manual_seed(0)
        order = [*range(sizes.pop()), 0]

        def vary(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.ndim:
                return leaf
            taken = leaf[order]
            if not leaf.is_floating_point():
                return taken
            noise = torch.randn(taken.shape, generator=generator, dtype=torch.float32)
            return noise.to(taken)

        yield tree_map(vary, call)


def tolerance(model: nn.Module) -> float:
    """The relative difference that rounding explains, by the model's coarsest number type."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max((TOLERANCE.get(dtype, 1e-5) for dtype in types), default=1e-5)


def unremovable(model: nn.Module, groups: Groups) -> dict[int, str]:
    """Try to remove a random half of the groups; returns the layers (by number) where that fails.

    All layers are tried together; only if that fails, each on its own.
    """
    rng = np.random.default_rng(0)
    half = np.zeros(len(groups), bool)
    for layer in groups.layers:
        chosen = rng.permutation(len(layer))[: len(layer) // 2]
        half[layer.start + chosen] = True
    if _failure(model, groups, half) is None:
        return {}
    failed: dict[int, str] = {}
    for number, layer in enumerate(groups.layers):
        alone = np.zeros_like(half)
        alone[layer.start : layer.stop] = half[layer.start : layer.stop]
        if (reason := _failure(model, groups, alone)) is not None:
            failed[number] = reason
    return failed


def _failure(model: nn.Module, groups: Groups, dead: np.ndarray) -> str | None:
    """Why removing `dead` groups doesn't leave an equal network, or None if it does."""
    zeroed = copy.deepcopy(model)
    factors = torch.from_numpy(np.where(dead, 0.0, 1.0))
    groups.on(zeroed).scale_(factors)
    try:
        removal = remove(zeroed, groups, dead)
        if removal.refused:
            return removal.refused[0][2]
        found = difference(zeroed, removal.model, groups.example)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"the smaller network does not run: {first}"
    if not found <= tolerance(model):
        return f"removal changes the output by {found:.1e} of its scale"
    return None
