"""The numerical check: do two models compute the same?

In: two models and example inputs. Out: the largest relative difference of their outputs, and what
rounding explains.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from secateur.surgery import variations
from secateur.surgery.norms import epsilon
from secateur.utils.comparison import largest_difference
from secateur.utils.contexts import preserve_state, tensors_in, unfused_ops
from secateur.utils.forward import arguments, calling, examples_of, full_precision, state_of

_HALVES = (torch.float16, torch.bfloat16)


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def difference(
    model: nn.Module,
    other: nn.Module,
    example: Any,
    *,
    thorough: bool = False,
    again: bool = True,
) -> float:
    """The largest difference between two models' outputs, relative to the outputs' scale.

    Both run in eval mode, with the same random numbers, on the example and on random inputs of
    another batch size (where the first model accepts them and gives numbers).

    Args:
        model: what is compared with.
        other: what is compared.
        example: inputs, or several in a list.
        thorough: whether to run also at other sizes, on masks and integers drawn anew, on larger
            values and with other numbers and flags (variations.py), and once in train mode,
            without dropout.
        again: False leaves out what is not only run where it is thorough, once that has been.

    Returns:
        max |a - b| / max |a| over all outputs and inputs; inf where their shapes differ, or where
        one is not a number.
    """
    if thorough:  # code may remember sizes that it has seen
        model, other = copy.deepcopy(model), copy.deepcopy(other)
    found = (_difference(model, other, x, thorough, again) for x in examples_of(example))
    return max(found)


def _difference(
    model: nn.Module, other: nn.Module, example: Any, thorough: bool, again: bool
) -> float:
    """The same on one example."""
    worst = 0.0
    with (
        calling(model, example),
        calling(other, example),
        preserve_state(model),
        preserve_state(other),
        torch.no_grad(),
        unfused_ops(),
        full_precision(),
    ):
        usual = list(variations.usual(example))
        tried = [*(usual if again else ()), *(variations.others(example) if thorough else ())]
        ran: list[variations.Places] = []
        for variation in tried:
            if any(variation.places and variation.places < places for places in ran):
                continue  # another size of more dimensions has been tried
            needed = variation is usual[0]
            call, expected = _first_that_runs(model, variation.calls, needed=needed)
            if call is None or (not needed and any(bool(t.isnan().any()) for t in expected)):
                continue  # this model has a fixed size, or does not take any number
            worst = max(worst, largest_difference(expected, _outputs(other, *call)))
            ran.append(variation.places)
        return max(worst, _in_train_mode(model, other, example)) if thorough else worst


def _first_that_runs(
    model: nn.Module, alternatives: list[variations.Call], *, needed: bool
) -> tuple[variations.Call | None, list[Tensor]]:
    for call in alternatives:
        try:
            return call, _outputs(model, *call)
        except Exception:  # noqa: PERF203
            if needed:
                raise
    return None, []


def _in_train_mode(model: nn.Module, other: nn.Module, example: Any) -> float:
    """How far they differ with the statistics of this batch; inf where only the first one runs.

    Once more in float64, if that runs, where it is more than rounding would explain: dividing by
    the deviation of few numbers amplifies it.
    """
    found = _gap_in_train_mode(model, other, example)
    if found <= tolerance(model):
        return found
    narrow = (*_HALVES, torch.float32)
    wide = widened(model, example, narrow, torch.float64)
    other_wide = widened(other, example, narrow, torch.float64)
    if wide is None or other_wide is None:
        return found
    return min(found, _gap_in_train_mode(wide[0], other_wide[0], wide[1]))


def _gap_in_train_mode(model: nn.Module, other: nn.Module, example: Any) -> float:
    args, kwargs = arguments(example)
    results, is_random = [], False
    for network in (model, other):
        network.train()
        for module in network.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
        watch = _Undropped()
        try:
            with watch:
                results.append(_outputs(network, args, kwargs))
        except Exception:
            return math.inf if results else 0.0
        finally:
            network.eval()
        is_random |= watch.is_random
    if is_random:
        same = [x.shape for x in results[0]] == [x.shape for x in results[1]]
        return 0.0 if same else math.inf
    if any(bool(t.isnan().any()) for t in results[0]):
        return 0.0
    return largest_difference(*results)


class _Undropped(TorchDispatchMode):
    """Dropout called as a function keeps all; other random numbers are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.is_random = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name == "aten::native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name == "aten::bernoulli_" and len(args) > 1 and not isinstance(args[1], Tensor):
            return args[0].fill_(args[1])  # is divided by the same number next
        if torch.Tag.nondeterministic_seeded in func.tags and name != "aten::empty":
            self.is_random = True
        return func(*args, **(kwargs or {}))


def _outputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    found = tensors_in(model(*args, **kwargs))
    return [t for t in found if (t.is_floating_point() or t.is_complex()) and t.numel()]


def tolerance(model: nn.Module, example: Any = None) -> float:
    """The relative difference that rounding explains, by the coarsest number type.

    Args:
        model: its parameters' types count.
        example: where given, the types count too that the model computes with on it (autocast).
    """
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if example is not None:
        args, kwargs = arguments(example)
        watch = _Types()
        with preserve_state(model), torch.no_grad(), unfused_ops(), watch:
            model(*args, **kwargs)
        types |= watch.found
    return max((TOLERANCE.get(dtype, 1e-5) for dtype in types), default=1e-5)


class _Types(TorchDispatchMode):
    """Notes the number types of all results."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found |= {t.dtype for t in tree_leaves(out) if isinstance(t, Tensor)}
        return out


def agree(model: nn.Module, found: float, example: Any) -> bool:
    """Whether rounding explains a difference that was found on these inputs."""
    return found <= tolerance(model) or found <= tolerance(model, example)


def precise(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """The model and its inputs in float32 where they were in half precision, if that runs.

    Half precision rounds so coarsely that a small mistake would pass for rounding.
    """
    if not any(t.dtype in _HALVES for t in state_of(model)):
        return model, example
    return widened(model, example, _HALVES, torch.float32) or (model, example)


def widened(
    model: nn.Module, example: Any, narrow: tuple[torch.dtype, ...], wide: torch.dtype
) -> tuple[nn.Module, Any] | None:
    """A copy of the model and its inputs with wider numbers; None if its code won't have them."""

    def widen(value: Any) -> Any:
        is_narrow = isinstance(value, Tensor) and value.dtype in narrow
        return value.to(wide) if is_narrow else value

    twin, inputs = copy.deepcopy(model), tree_map(widen, example)
    for module in twin.modules():
        if getattr(module, "eps", 0) is None:  # that of its number type, which changes
            module.eps = epsilon(module, "eps")  # pyright: ignore
    twin._apply(widen)
    args, kwargs = arguments(inputs)
    try:
        with preserve_state(twin), torch.no_grad(), unfused_ops():
            twin(*args, **kwargs)
    except Exception:
        return None
    return twin, inputs


class Narrowed(nn.Module):
    """A model of wide numbers that takes narrow inputs, to measure what rounding does to it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def widen(value: Any) -> Any:
            is_narrow = isinstance(value, Tensor) and value.dtype == torch.float32
            return value.double() if is_narrow else value

        args, kwargs = tree_map(widen, (args, kwargs))
        return self.model(*args, **kwargs)
