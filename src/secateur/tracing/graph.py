"""A recorded run: which operator read what, during which module's call, and what depends on what.

In: a model and an example. Out: a `Graph`: every operator in order, the calls of modules, labels;
and, for each step, the steps and weights that it depends on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.tracing import rules
from secateur.tracing.axes import Trace
from secateur.tracing.tracer import Tracer, trace
from secateur.utils.contexts import tensors_in

Origin = int | str | None  # the step that made a tensor, a parameter's name, or anything else


@dataclass(frozen=True)
class Node:
    """One operator call, or an input of the model.

    Attributes:
        name: the operator, without the mark of its in-place form.
        inputs: where its tensors came from, in the order of its arguments.
        given: the same by the arguments' names.
        shapes: of the same tensors.
        operators: which of the trace's operators it is: range(start, stop).
        writes: whether it changes a tensor in place.
        index: which entry of the first dimension it selects, if it does that.
    """

    name: str
    inputs: tuple[Origin, ...]
    given: dict[str, Origin]
    shapes: tuple[torch.Size, ...]
    operators: range
    writes: bool = False
    index: int | None = None


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: the steps inside, how to make zeros like its output, and its maker."""

    module: str
    steps: range
    output: dict[str, Any] | None
    result: Origin = None


@dataclass
class Graph:
    """A run: its steps in order, the modules' calls, and where the outputs came from."""

    steps: list[Node] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    outputs: set[int] = field(default_factory=set)

    def consumers(self) -> list[list[int]]:
        """For each step the steps that read its result."""
        found: list[list[int]] = [[] for _ in self.steps]
        for number, step in enumerate(self.steps):
            for origin in step.inputs:
                if isinstance(origin, int):
                    found[origin].append(number)
        return found

    def readers(self) -> dict[str, list[int]]:
        """For each parameter the steps that read it."""
        found: dict[str, list[int]] = {}
        for number, step in enumerate(self.steps):
            for origin in step.inputs:
                if isinstance(origin, str):
                    found.setdefault(origin, []).append(number)
        return found


def record_graph(model: nn.Module, example: Any) -> tuple[Trace, Graph]:
    """Trace a model, and record the run.

    Raises:
        RuntimeError: the model fails on the example.
    """
    recorders: list[_Recorder] = []

    def make(*args: Any) -> _Recorder:
        recorders.append(_Recorder(*args, model=model))
        return recorders[-1]

    with _watched(model, recorders):
        found = trace(model, example, tracer=make)
    last = recorders[-1]
    last.record_graph.outputs = {
        origin for tensor in last.results if isinstance(origin := last.origins.get(id(tensor)), int)
    }
    return found, last.record_graph


class _Recorder(Tracer):
    """Traces, and records the first run; keeps its tensors, so that ids stay unique."""

    def __init__(self, *args: Any, model: nn.Module) -> None:
        super().__init__(*args)
        self.record_graph = Graph()
        self.origins: dict[int, Origin] = {id(p): name for name, p in model.named_parameters()}
        self.alive: list[Any] = []
        self.results: list[Tensor] = []
        self.open: list[int] = []

    def start(self, args: Any, kwargs: Any) -> None:
        """The model's inputs are the first steps."""
        for tensor in tensors_in((args, kwargs)):
            self.origins[id(tensor)] = len(self.record_graph.steps)
            self.record_graph.steps.append(Node("input", (), {}, (), range(0)))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.runs:
            return super().__torch_dispatch__(func, types, args, kwargs)
        before = len(self.labels.operators)
        call = rules.Call(func, args, kwargs or {}, None)
        inputs = tuple(self.origins.get(id(tensor)) for tensor in call.inputs)
        given = {
            parameter.name: self.origins.get(id(value))
            for parameter in func._schema.arguments
            if isinstance(value := call.argument(parameter.name), Tensor)
        }
        shapes = tuple(tensor.shape for tensor in call.inputs)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        number = len(self.record_graph.steps)
        operators = range(before, len(self.labels.operators))
        name = call.name.removesuffix("_") if not call.name.startswith("_") else call.name
        writes = bool(call.written)
        index = None
        if name == "select" and call.argument("dim") == 0:
            index = call.argument("index") % shapes[0][0]
        self.record_graph.steps.append(Node(name, inputs, given, shapes, operators, writes, index))
        for tensor in tensors_in(out):
            self.origins[id(tensor)] = number
        self.alive.append((args, kwargs, out))
        return out


@contextmanager
def _watched(model: nn.Module, recorders: list[_Recorder]) -> Iterator[None]:
    """Note each module's calls in the newest recorder."""
    hooks = []
    for name, module in model.named_modules():

        def enter(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            if recorders[-1].runs:
                return
            if not name:
                recorders[-1].start(args, kwargs)
            recorders[-1].open.append(len(recorders[-1].record_graph.steps))

        def leave(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            now = recorders[-1]
            if now.runs:
                return
            steps = range(now.open.pop(), len(now.record_graph.steps))
            inputs = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
            result = now.origins.get(id(output)) if isinstance(output, Tensor) else None
            now.record_graph.calls.append(ModuleCall(name, steps, _recipe(inputs, output), result))
            if not name:
                now.results = list(tensors_in(output))

        hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _recipe(inputs: list[Tensor], output: Any) -> dict[str, Any] | None:
    """How to make zeros like `output` from the inputs alone, or None."""
    if isinstance(output, Tensor):
        like = _like(inputs, output)
        return None if like is None else {"kind": "tensor", "like": [like]}
    if type(output) not in (tuple, list):
        return None
    items: list[list[Any] | None] = []
    for item in output:
        like = _like(inputs, item) if isinstance(item, Tensor) else None
        if item is not None and like is None:
            return None
        items.append(like)
    return {"kind": type(output).__name__, "like": items}


def _like(inputs: list[Tensor], output: Tensor) -> list[Any] | None:
    """[input, dimension, size]: the output is like that input but for the size of a dimension."""
    found = None
    for position, x in enumerate(inputs):
        if x.ndim != output.ndim or x.dtype != output.dtype or not x.ndim:
            continue
        other = [dim for dim in range(x.ndim) if x.shape[dim] != output.shape[dim]]
        if not other:
            return [position, None, None]
        if len(other) == 1 and other[0] in (1, x.ndim - 1) and found is None:
            found = [position, other[0], output.shape[other[0]]]
    return found


WEIGHED = {"mm", "addmm", "bmm", "baddbmm", "convolution", "_grouped_mm"}  # products


class Ancestors:
    """Which steps a step depends on, as bits of one integer each."""

    def __init__(self, run: Graph) -> None:
        self._masks: list[int] = []
        self._inputs = self._products = 0
        for number, step in enumerate(run.steps):
            mask = 0
            for origin in step.inputs:
                if isinstance(origin, int):
                    mask |= self._masks[origin] | (1 << origin)
            self._masks.append(mask)
            self._inputs |= (step.name == "input") << number
            self._products |= (step.name in WEIGHED) << number

    def has(self, step: int, origin: Origin) -> bool:
        """Whether a step depends on what another one made."""
        return isinstance(origin, int) and bool(self._masks[step] >> origin & 1)

    def reads_input(self, origin: Origin) -> bool:
        """Whether a tensor is one of the model's inputs, or computed from them."""
        return isinstance(origin, int) and bool(self._with(origin) & self._inputs)

    def products_between(self, origin: int, step: int) -> int:
        """How many products a step depends on, itself included, that `origin` does not."""
        return (self._with(step) & ~self._with(origin) & self._products).bit_count()

    def _with(self, step: int) -> int:
        return self._masks[step] | (1 << step)
