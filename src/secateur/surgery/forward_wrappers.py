"""Forwards that have to know what left: reshapes after attention, routers of stacked experts.

In: a module whose code says `y.reshape(batch, length, width)` after an attention, or that is given
which experts are chosen, and with which weights. Out: the same module, in which such a reshape
takes as many columns as there are, or which finds the experts that are left at their new places,
and none where one is gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RESHAPES = {Tensor.reshape, Tensor.view, torch.reshape}


class _Following(TorchFunctionMode):
    """A reshape whose sizes don't fit the tensor takes what there is for its last size.

    Where the last size is that of a head, which stays, it is the one before: the number of heads.
    """

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.corrected = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        sizes = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
        if (
            func not in _RESHAPES
            or kwargs
            or not sizes
            or isinstance(sizes[0], torch.dtype)
            or any(isinstance(size, int) and size == -1 for size in sizes)
            or math.prod(sizes) == args[0].numel()
        ):
            return func(*args, **kwargs)
        self.corrected = True
        place = -2 if len(sizes) > 1 and sizes[-1] == self.head_size else -1
        return func(args[0], (*sizes[:place], -1, *sizes[len(sizes) + place + 1 :]))


class Reshaping:
    """A module's forward whose reshapes follow the tensors.

    Attributes:
        corrected: whether any reshape had to be corrected so far.
    """

    def __init__(self, forward: Callable[..., Any], head_size: int) -> None:
        self.__wrapped__ = forward  # where inspect.signature looks
        self.head_size = head_size
        self.corrected = False

    @property
    def __code__(self) -> Any:  # torch.export looks here for a line to show
        return getattr(self.__wrapped__, "__code__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Following(self.head_size) as mode:
            result = self.__wrapped__(*args, **kwargs)
        self.corrected |= mode.corrected
        return result


def follow(module: nn.Module, head_size: int) -> None:
    """Let the reshapes of a module's own code follow its tensors, in place."""
    if not isinstance(module.forward, Reshaping):
        module.forward = Reshaping(module.forward, head_size)


def only_needed(model: nn.Module, names: dict[str, int]) -> dict[str, int]:
    """Undo `follow` where a run corrected nothing; returns the other modules and their sizes."""
    needed = {}
    modules = dict(model.named_modules())
    for name, head_size in names.items():
        forward = vars(modules[name]).get("forward") if name in modules else None
        if forward is not None and forward.corrected:
            needed[name] = head_size
        elif forward is not None:
            del modules[name].forward
    return needed


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
