"""The numerical check: does a smaller model compute what the zeroed one computes?

In: two models and example inputs. Out: the largest relative difference of their outputs; and,
before training, a trial removal that leaves only groups which can really be removed.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.groups.groups import Groups
from secateur.surgery.equivalence import agree, difference, noise, precise
from secateur.surgery.norms import full_size_norms
from secateur.surgery.plan import Plan
from secateur.surgery.removal import remove
from secateur.tracing.model_checks import is_on_meta


def try_removal(
    model: nn.Module, groups: Groups, parts: Sequence[np.ndarray] | None = None
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Try to remove parts of the groups: all of them together; if that fails, each half, and so on.

    Args:
        model: the groups' model; left as it was.
        groups: the groups.
        parts: what to remove together, each bool of shape (m,); by default a random half of each
            layer (an odd number is kept).

    Returns:
        The parts (by number) where that fails, with the reason; and the biases that were added to
        fold constants when all other parts were removed in one go.

    Warns:
        UserWarning: the model is on the meta device, where nothing can be tried.
    """
    if is_on_meta(model):
        warnings.warn(
            f"{type(model).__name__} is on the meta device, so the removal of its groups was not "
            "tried out; groups.on(model) does that once there is a model with values",
            stacklevel=4,
        )
        return {}, ()
    parts = list(_halves(groups)) if parts is None else parts
    model, example = precise(_perturbed(model), groups.example)
    groups = replace(groups, example=example)
    failed: dict[int, str] = {}
    biases: tuple[str, ...] = ()
    accepted = np.zeros(len(groups), bool)

    def settle(numbers: list[int]) -> None:
        attempt = accepted.copy()
        for number in numbers:
            attempt |= parts[number]
        outcome = _attempt(model, groups, attempt)
        if isinstance(outcome, Plan):
            nonlocal biases
            accepted[:], biases = attempt, outcome.biases
        elif len(numbers) == 1:
            failed[numbers[0]] = outcome
        else:
            settle(numbers[: len(numbers) // 2])
            settle(numbers[len(numbers) // 2 :])

    settle(list(range(len(parts))))
    return failed, biases


def _halves(groups: Groups) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for layer in groups.layers:
        half = np.zeros(len(groups), bool)
        kept = len(layer) // 2 | 1  # odd, because some kernels only take multiples of a number
        half[layer.start + rng.permutation(len(layer))[kept:]] = True
        yield half


def _perturbed(model: nn.Module) -> nn.Module:
    """A copy in which no parameter or statistic has a special value that could hide a mistake.

    A branch that starts at zero, or a BatchNorm that has seen no data yet, would. A layer's outputs
    change by about a tenth of its inputs, however wide it is: more would let rounding grow from
    layer to layer in a deep network.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                fan_in = max(1, parameter.shape[1:].numel())  # of an empty one, 0
                parameter += 0.1 / math.sqrt(fan_in) * noise(parameter, generator)
        for module in model.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                module.running_mean += 0.1 * noise(module.running_mean, generator)
    return model


def _attempt(model: nn.Module, groups: Groups, dead: np.ndarray) -> Plan | str:
    """The plan that removes `dead` groups, or why it doesn't leave an equal network."""
    zeroed = copy.deepcopy(model)
    factors = torch.from_numpy(np.where(dead, 0.0, 1.0))
    groups.on(zeroed).scale_(factors)
    try:
        removal = remove(zeroed, groups, dead)
        if removal.refused:
            return removal.refused[0][2]
        norms = groups.coupling.norms if groups.coupling else ()
        out = removal.plan.out
        with full_size_norms(
            removal.model, zeroed, norms, removal.dead, out
        ):  # they alone may be inexact
            found = difference(zeroed, removal.model, groups.example)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"the smaller network does not run: {first}"
    if not agree(zeroed, found, groups.example):
        return f"removal changes the output by {found:.1e} of its scale"
    return removal.plan
