"""The learning rates of an optimizer, by which steps of a penalty with a lambda are as long.

In: an optimizer. Out: each parameter's rate, or the one that all grouped parameters have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from secateur.groups import Groups


def is_resting(optimizer: Optimizer) -> bool:
    """Whether every learning rate is 0."""
    return all(lr is not None and float(lr) == 0 for lr in _given(optimizer))


def learning_rates(optimizer: Optimizer) -> Iterator[tuple[Tensor, float]]:
    """How far each parameter goes against its gradient (below 0 where it is maximized)."""
    for group, lr in zip(optimizer.param_groups, _given(optimizer), strict=True):
        if lr is None:
            raise ValueError(
                f"{type(optimizer).__name__} has no learning rate, lr, which stationarity() and a "
                "penalty with a lambda need"
            )
        rate = -float(lr) if group.get("maximize") else float(lr)
        for parameter in group["params"]:
            yield parameter, rate


def common_rate(optimizer: Optimizer, groups: Groups, penalty: str) -> float:
    """The learning rate of all grouped parameters, for a penalty of this name.

    Raises:
        ValueError: they have several.
    """
    grouped = {id(member.parameter) for member in groups.members}
    rates = {abs(lr) for p, lr in learning_rates(optimizer) if id(p) in grouped}
    if len(rates) > 1:
        raise ValueError(
            f"penalty={penalty!r} needs one learning rate for all grouped parameters, got "
            f"{sorted(rates)}; the firm penalty doesn't"
        )
    return rates.pop()


def _given(optimizer: Optimizer) -> Iterator[Any]:
    """Each param_group's learning rate: a number, a tensor, or None where it has none."""
    return (group.get("lr") for group in optimizer.param_groups)
