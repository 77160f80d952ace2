"""Code that writes the model's width where the width of its heads belongs, made to follow them.

In: a module whose code says `y.reshape(batch, length, width)` after an attention. Out: the same
module, in which such a reshape takes as many columns as there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
