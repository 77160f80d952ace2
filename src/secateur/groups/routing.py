"""Experts that left a stack: the indices that a router gives are translated.

In: a module that is given which experts are chosen, and with which weights. Out: the same module,
which finds the experts that are left at their new places, and none where one is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Places = tuple[int, ...]  # the new place of each expert, or one of the two below
AT_FIRST = -1  # gone: its tokens go to the first expert, with the weight 0
PAST = -2  # gone: its tokens go to one past the last expert, where the module expects that


def new_places(alive: Sequence[bool], gone: int) -> Places:
    """Where experts are once the others have left.

    Example:
        >>> new_places([True, False, True], PAST)
        (0, -2, 1)
    """
    return tuple(sum(alive[:n]) if lives else gone for n, lives in enumerate(alive))


def combined(first: Places, second: Places) -> Places:
    """Where experts are that moved to `first`, and from there to `second`.

    Example:
        >>> combined((0, -2, 1), (-1, 0))
        (-1, -2, 0)
    """
    return tuple(second[at] if at >= 0 else at for at in first)


def reroute(module: nn.Module, places: Places) -> None:
    """Let a module, whose stacks of experts were cut, translate the indices that it is given."""
    forward = module.forward
    if isinstance(forward, Rerouted):
        forward, places = forward.__wrapped__, combined(forward.places, places)
    module.forward = Rerouted(forward, places)
    if PAST in places and hasattr(module, "_is_expert_parallel"):  # transformers then skips these
        module._is_expert_parallel = True  # pyright: ignore[reportArgumentType]


class Rerouted:
    """A module's forward, given the new places of experts instead of the old ones.

    The weight of an expert that is gone becomes 0, in every tensor of the indices' shape.
    """

    def __init__(self, forward: Callable[..., Any], places: Places) -> None:
        self.__wrapped__ = forward  # where inspect.signature looks
        self.places = places

    @property
    def __code__(self) -> Any:  # torch.export looks here for a line to show
        return getattr(self.__wrapped__, "__code__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        elsewhere = {AT_FIRST: 0, PAST: max(self.places) + 1}
        table = [elsewhere.get(place, place) for place in self.places]
        choices = list(filter(is_choice, (*args, *kwargs.values())))

        def translated(value: Any) -> Any:
            if is_choice(value):
                return _looked_up(table, value).to(value.dtype)
            if isinstance(value, Tensor) and value.is_floating_point():
                for choice in choices:
                    if choice.shape == value.shape:
                        lost = _looked_up([place < 0 for place in self.places], choice)
                        return value.masked_fill(lost, 0)
            return value

        arguments = [translated(value) for value in args]
        return self.__wrapped__(*arguments, **{k: translated(v) for k, v in kwargs.items()})


def is_choice(value: Any) -> bool:
    """Whether a value given to a module may say which experts are chosen."""
    return (
        isinstance(value, Tensor) and value.ndim > 0 and value.dtype in (torch.int64, torch.int32)
    )


def _looked_up(table: list[Any], index: Tensor) -> Tensor:
    return torch.tensor(table, device=index.device)[index.long()]
