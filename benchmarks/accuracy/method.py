"""What a method is: a name, how it trains, and the values of its knob that are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from accuracy.run import Run

Knob = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """One way to a network of a given size.

    Attributes:
        name: in results and tables.
        train: (run, **knob) -> the trained network, physically small.
        knobs: what is tried with seed 0 at each budget; the best on the validation rows is used
            there with all seeds. One entry: nothing is tuned.
        fits: a run of the task, untrained -> whether it can express what the task asks for.
    """

    name: str
    train: Callable[..., nn.Module]
    knobs: Sequence[Knob] = ({},)
    fits: Callable[[Run], bool] = lambda run: True


METHODS: dict[str, Method] = {}


def method(
    name: str, knobs: Sequence[Knob] = ({},), fits: Callable[[Run], bool] = lambda run: True
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register a function that trains as a method."""

    def register(train: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        METHODS[name] = Method(name, train, knobs, fits)
        return train

    return register
