"""Code that a model runs in train mode only: a head that only training reaches, a branch.

In: a model and an example. Out: the names of the operators of a run in train mode, to compare with
those in eval mode; and contexts in which that code runs and nothing is left of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.tracing.plain_run import plain_run
from secateur.utils.forward import arguments


def names_in_training(model: nn.Module, example: Any) -> list[str] | None:
    """The names of the operators of a run in train mode; None where it does not run."""
    watch = _Names()
    args, kwargs = arguments(example)
    try:
        twin = copy.deepcopy(model)  # code may count its steps, or write into parameters
        with plain_run(twin, example), training_code(twin), watch:
            twin(*args, **kwargs)
    except Exception:
        return None
    return watch.ran


@contextmanager
def training_code(model: nn.Module) -> Iterator[None]:
    """Train mode, but for dropout and batch norms, which only have other numbers there.

    `plain_run` around it brings the modes back.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, (_DropoutNd, _NormBase)):
            module.eval()
    yield


@contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """Parameters that a run writes into (a moving average of others) are afterwards as before."""
    before = [(p, p._version, p.detach().clone()) for p in model.parameters()]
    try:
        yield
    finally:
        for parameter, version, values in before:
            if parameter._version != version:
                parameter.data.copy_(values)


class _Names(TorchDispatchMode):
    """Notes the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran.append(func.name())
        return func(*args, **(kwargs or {}))
