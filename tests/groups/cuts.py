"""What the tests of this room do again and again: kill groups, remove them, count what is left."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.groups import Groups
from secateur.groups.removal import Removal, remove
from secateur.groups.trace import as_call, evaluating, plain_kernels
from secateur.groups.trial import difference


def some_dead(groups: Groups, seed: int, *, share: float = 0.5) -> np.ndarray:
    """A random share of every layer's groups, never all of them."""
    rng = np.random.default_rng(seed)
    dead = np.zeros(len(groups), bool)
    for layer in groups.layers:
        count = min(round(share * len(layer)), len(layer) - 1)
        dead[layer.start + rng.permutation(len(layer))[:count]] = True
    return dead


def zero(model: nn.Module, groups: Groups, dead: np.ndarray) -> tuple[nn.Module, Groups]:
    """A copy of `model` with the dead groups at zero, and its groups."""
    model = copy.deepcopy(model)
    groups = groups.on(model)
    groups.scale_(torch.from_numpy(np.where(dead, 0.0, 1.0)))
    return model, groups


def cut_out(model: nn.Module, groups: Groups, dead: np.ndarray) -> tuple[Removal, float]:
    """Zero, remove, and compare: what remains and the largest relative difference."""
    zeroed, mine = zero(model, groups, dead)
    removal = remove(zeroed, mine, dead)
    return removal, difference(zeroed, removal.model, groups.example)


def counted(model: nn.Module, example: Any) -> tuple[int, int]:
    """FLOPs of one run and parameters, as torch counts them."""
    args, kwargs = as_call(example)
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), plain_kernels(), counter:
        model(*args, **kwargs)
    return counter.get_total_flops(), sum(p.numel() for p in model.parameters())


def predicted(groups: Groups, dead: np.ndarray) -> tuple[int, int]:
    """FLOPs of one run and parameters, as the coupling says."""
    assert groups.coupling is not None
    alive = np.append(~dead, True)
    flops = sum(
        o.flops * np.prod([alive[entries].mean() for entries in o.entries])
        for o in groups.coupling.operations
    )
    params = 0
    for slot in groups.coupling.slots:
        sizes = zip(slot.shape, slot.entries, strict=True)
        kept = [size if entries is None else alive[entries].sum() for size, entries in sizes]
        params += int(np.prod(kept)) if slot.is_parameter else 0
    return round(float(flops)), params
