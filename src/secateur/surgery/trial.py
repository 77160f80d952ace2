"""The numerical check: does a smaller model compute what the zeroed one computes?

In: two models and example inputs. Out: the largest relative difference of their outputs; and,
before training, a trial removal that leaves only groups which can really be removed.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.groups.groups import Groups
from secateur.surgery.bias_folding import unproven
from secateur.surgery.equivalence import agree, precise
from secateur.surgery.removal import Removal, remove
from secateur.surgery.rounding import gap_after, rounding_explains
from secateur.surgery.variations import noise
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
    failed, latest = _settled(model, groups, parts, range(len(parts)), thorough=False)
    # other sizes and values once, at the end, unless something differs there
    if latest is not None and _difference(latest, thorough=True, again=False):
        rest = [number for number in range(len(parts)) if number not in failed]
        more, latest = _settled(model, groups, parts, rest, thorough=True)
        failed |= more
    return failed, () if latest is None else latest.removal.plan.biases


@dataclass(frozen=True)
class _Attempt:
    """A zeroed copy of the model, its groups, and what their removal made of it."""

    zeroed: nn.Module
    groups: Groups
    removal: Removal


def _settled(
    model: nn.Module,
    groups: Groups,
    parts: Sequence[np.ndarray],
    numbers: Sequence[int],
    *,
    thorough: bool,
) -> tuple[dict[int, str], _Attempt | None]:
    """The parts that can't be removed and why, and the removal of all others."""
    failed: dict[int, str] = {}
    accepted = np.zeros(len(groups), bool)
    latest: _Attempt | None = None

    def settle(numbers: Sequence[int]) -> None:
        nonlocal latest
        attempt = accepted.copy()
        for number in numbers:
            attempt |= parts[number]
        outcome = _attempt(model, groups, attempt, thorough=thorough, alone=len(numbers) == 1)
        if isinstance(outcome, _Attempt):
            accepted[:], latest = attempt, outcome
            return
        doubts = _parts_with(outcome, parts, numbers) if isinstance(outcome, dict) else {}
        failed.update(doubts)
        rest = [number for number in numbers if number not in doubts]
        if doubts and rest:
            settle(rest)
        elif len(rest) == 1:
            failed[rest[0]] = str(outcome)
        elif rest:
            settle(rest[: len(rest) // 2])
            settle(rest[len(rest) // 2 :])

    if numbers:
        settle(numbers)
    return failed, latest


def _parts_with(
    doubts: dict[int, str], parts: Sequence[np.ndarray], numbers: Sequence[int]
) -> dict[int, str]:
    """The parts that hold groups which can't be shown to leave the same behind, and why."""
    found = {}
    for number in numbers:
        for group, reason in doubts.items():
            if parts[number][group]:
                found.setdefault(number, reason)
    return found


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
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                parameter += 0.1 / math.sqrt(fan_in) * noise(parameter, generator)
        for module in model.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                module.running_mean += 0.1 * noise(module.running_mean, generator)
    return model


def _attempt(
    model: nn.Module, groups: Groups, dead: np.ndarray, *, thorough: bool, alone: bool
) -> _Attempt | str | dict[int, str]:
    """The removal of `dead` groups, or why it doesn't leave an equal network.

    Groups by number, with their reasons, where it isn't certain that they leave the same behind.
    With `thorough` they have been proven before; `alone` asks for the cause of a difference.
    """
    zeroed = copy.deepcopy(model)
    mine = groups.on(zeroed)
    mine.scale_(torch.from_numpy(np.where(dead, 0.0, 1.0)))
    try:
        removal = remove(zeroed, mine, dead, prove=False)
    except Exception as error:
        return _does_not_run(error)
    if removal.refused:
        return removal.refused[0][2]
    attempt = _Attempt(zeroed, mine, removal)
    reason = _difference(attempt, thorough=thorough)
    if not reason:
        return attempt if thorough else unproven(zeroed, mine, dead) or attempt
    doubts = unproven(zeroed, mine, dead) if alone else {}
    return ": ".join([reason, *list(doubts.values())[:1]])


def _difference(attempt: _Attempt, *, thorough: bool, again: bool = True) -> str:
    """How the smaller network differs from the zeroed one by more than rounding, or ""."""
    zeroed, groups, removal = attempt.zeroed, attempt.groups, attempt.removal
    try:
        found = gap_after(zeroed, removal, groups, thorough=thorough, again=again)
        if agree(zeroed, found, groups.example) or rounding_explains(
            zeroed, groups, removal.dead, found, thorough=thorough
        ):
            return ""
    except Exception as error:
        return _does_not_run(error)
    return f"removal changes the output by {found:.1e} of its scale"


def _does_not_run(error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"the smaller network does not run: {first}"
