"""What the tests of this room do again and again: kill groups, remove them, count what is left."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.groups import Groups
from secateur.surgery.equivalence import difference
from secateur.surgery.removal import Removal, remove
from secateur.tracing.tracer import trace
from secateur.utils.contexts import preserve_state, unfused_ops
from secateur.utils.forward import arguments


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
    args, kwargs = arguments(example)
    counter = FlopCounterMode(display=False)
    with preserve_state(model), torch.no_grad(), unfused_ops(), counter:
        model(*args, **kwargs)
    return counter.get_total_flops(), sum(p.numel() for p in model.parameters())


class Apply(nn.Module):
    """A few named modules and the function that runs them: one pattern in three lines."""

    def __init__(self, run: Callable[..., Any], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


def axes(model: nn.Module, *example: Any) -> tuple[dict[str, int], dict[str, str]]:
    """The free axes with their channels, and the protected ones with their reasons."""
    found = trace(model, example).axes
    free = {axis.name: len(axis) for axis in found if not axis.protected}
    return free, {axis.name: axis.protected for axis in found if axis.protected}


def predicted(groups: Groups, dead: np.ndarray) -> tuple[int, int]:
    """FLOPs of one run and parameters, as the coupling says."""
    assert groups.coupling is not None
    alive = np.append(~dead, True)
    flops = sum(
        o.flops
        * np.prod([alive[entries].mean() for entries in o.entries])
        * all(alive[list(together)].any() for together in o.within)
        for o in groups.coupling.operations
    )
    params = 0
    for slot in groups.coupling.slots:
        sizes = zip(slot.shape, slot.entries, strict=True)
        kept = [size if entries is None else alive[entries].sum() for size, entries in sizes]
        inside = all(alive[list(together)].any() for together in slot.within)
        params += int(np.prod(kept)) if slot.is_parameter and inside else 0
    slots = {slot.names[0]: slot for slot in groups.coupling.slots}
    for name, dim in groups.coupling.added:  # biases that take up constants
        entries = slots[name].entries[dim]
        params += slots[name].shape[dim] if entries is None else int(alive[entries].sum())
    return round(float(flops)), params
