"""Which parts of a model live and die together, found by one run of it.

In: a model and example inputs. Out: a `Trace`: the coupled axes, what is protected and why, and the
operators that cost FLOPs. Labels ride along the run under a dispatch mode (labels.py, rules).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.tracing import rules
from secateur.tracing.axes import Trace, axes_of
from secateur.tracing.labels import Labels
from secateur.tracing.meta_device import beside, without_values
from secateur.tracing.model_checks import check_model, is_on_meta
from secateur.tracing.plain_run import plain_run
from secateur.tracing.size_attributes import Sized, sizes_read
from secateur.tracing.statistics import Statistic, statistics
from secateur.tracing.train_mode import names_in_training, training_code, undone
from secateur.utils.contexts import tensors_in
from secateur.utils.forward import arguments, check_devices, examples_of


def trace(
    model: nn.Module,
    example: Any,
    *,
    keep: str = "inner",
    tracer: Callable[..., Tracer] | None = None,
) -> Trace:
    """Find the coupled axes of `model` by letting labels ride along a run on `example`.

    Args:
        model: any module; it runs in eval mode without gradients and is left as it was. On the meta
            device nothing is computed, and no memory is needed.
        example: a tensor, a tuple of positional inputs, or a mapping of keyword inputs; or several
            of them in a list, so that what only some of them reach is seen. Costs are the first's.
        keep: which axis may be cut where the same labels lie along the heads and the head size of
            an attention: "inner" is the head size, "batch" the heads.
        tracer: what watches the run; by default nothing but the labels do.

    Returns:
        The `Trace`; `print` it to read the axes, what is protected and why.

    Raises:
        RuntimeError: the model fails on the example; the message names the operator.
        TypeError: a part of the model is scripted or quantized.
        ValueError: `keep` is neither; model and example are on different devices; a parameter has
            no plain values that could be trained.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> print(trace(model, torch.ones(1, 4)))
        1 coupled axis, 6 channels
          0  6
        1 protected axis, 2 channels
          2  2  reaches an output of the model
    """
    if keep not in ("inner", "batch"):
        raise ValueError(f"trace(keep={keep!r}): expected 'inner' or 'batch'")
    model = check_model(model)
    examples = [beside(model, own) for own in examples_of(example)]
    # what runs in train mode is not known of a model without values
    trained = [None if is_on_meta(model) else names_in_training(model, own) for own in examples]
    known: list[tuple[np.ndarray, np.ndarray]] = []
    while True:  # a label that turns out to be a head's is one from the beginning, the next time
        labels = Labels.of(model, keep=keep, pairs=known)
        mode = _run(model, examples, trained, labels, tracer or Tracer)
        if all(len(pair[0]) == 0 for pair in labels.heads[len(known) :]):
            found = axes_of(labels, mode.used)
            return replace(found, sizes=tuple(mode.sizes), statistics=tuple(mode.statistics))
        known = labels.heads


def _run(
    model: nn.Module,
    examples: Sequence[Any],
    trained: Sequence[list[str] | None],
    labels: Labels,
    tracer: Callable[..., Tracer],
) -> Tracer:
    """Let labels ride along a run on each example, in train mode too where it runs other code."""
    mode = tracer(labels, {id(module): name for name, module in model.named_modules()})
    for own, in_training in zip(examples, trained, strict=True):
        names = _follow(model, own, labels, mode)
        if in_training not in (None, names):
            with undone(model):
                _follow(model, own, labels, mode, training=True)
    del labels.operators[mode.costing :]
    return mode


def _follow(
    model: nn.Module, example: Any, labels: Labels, mode: Tracer, *, training: bool = False
) -> list[str]:
    """Let labels ride along one run; returns the names of its operators."""
    args, kwargs = arguments(example)
    for tensor in tensors_in((args, kwargs)):
        labels.put(tensor, [], is_data=True)
    mode.ran = []
    try:
        with (
            plain_run(model, example),
            training_code(model) if training else nullcontext(),
            mode,
        ):
            outputs = model(*args, **kwargs)
    except Exception as error:
        if not mode.on_meta:
            check_devices(model, (args, tuple(kwargs.values())))
        advice = (
            "on the meta device it has no values that its code could ask for; group a model that "
            "has some"
            if mode.on_meta
            else "check that model(*example) runs in eval mode"
        )
        raise RuntimeError(
            f"tracing {type(model).__name__} failed in {mode.current or 'its own code'}: {error}\n"
            f"  the model is unchanged; {advice}"
        ) from error
    for tensor in tensors_in(outputs):
        labels.protect(labels.planes(tensor), "reaches an output of the model")
    for tensor in tensors_in((args, kwargs)):
        labels.protect(labels.planes(tensor), "reaches an input of the model")
    mode.runs += 1
    if mode.runs == 1:
        mode.costing = len(labels.operators)
    return mode.ran


class Tracer(TorchDispatchMode):
    """Runs every operator, then lets the labels follow it.

    Attributes:
        runs: how many runs have ended.
        costing: how many of the labels' operators are the first run's, whose costs count.
        ran: the names of the operators of the run under way.
    """

    def __init__(self, labels: Labels, names: dict[int, str]) -> None:
        super().__init__()
        self.labels = labels
        self.names = names
        self.sizes: list[Sized] = []
        self.statistics: list[Statistic] = []
        self.current = ""
        self.used: set[int] = set()
        self.runs = self.costing = 0
        self.ran: list[str] = []
        self.on_meta = any(item.tensor.is_meta for item in labels.tracked)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.current = f"the operator {func.name()}"
        self.ran.append(func.name())
        out = without_values(func, args, kwargs) if self.on_meta else func(*args, **kwargs)
        with torch.device("cpu"):  # labels stay there, whatever torch's default device is
            self.follow(func, args, kwargs, out)
        self.current = ""
        return out

    def follow(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Let the labels follow one operator."""
        call = rules.Call(func, args, kwargs, out)
        self.used.update(id(tensor) for tensor in call.inputs)
        noted = len(self.labels.inexact)
        rules.apply(self.labels, call)
        if len(self.labels.inexact) > noted:
            self.statistics.extend(statistics(self.names, self.labels, noted))
        self.sizes.extend(sizes_read(self.names, self.labels, call))


# -- from ties to axes -----------------------------------------------------------------------------
