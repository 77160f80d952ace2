"""The numerical check: does a smaller model compute what the zeroed one computes?

In: two models and example inputs. Out: the largest relative difference of their outputs; and,
before training, a trial removal that leaves only groups which can really be removed.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from secateur.groups.admission import is_on_meta
from secateur.groups.groups import Groups
from secateur.groups.norms import whole
from secateur.groups.plan import Plan
from secateur.groups.removal import remove
from secateur.groups.running import plain_kernels, tensors_in, undisturbed
from secateur.measure.running import arguments, full_precision, state_of

_HALVES = (torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def difference(model: nn.Module, other: nn.Module, example: Any) -> float:
    """The largest difference between two models' outputs, relative to the outputs' scale.

    Both run in eval mode, with the same random numbers, on the example and on random inputs of
    another batch size (where the first model accepts them and gives numbers).

    Returns:
        max |a - b| / max |a| over all outputs and inputs; inf where their shapes differ, or where
        one is not a number.
    """
    worst = 0.0
    with (
        undisturbed(model),
        undisturbed(other),
        torch.no_grad(),
        plain_kernels(),
        full_precision(),
    ):
        for position, (args, kwargs) in enumerate(_variations(example)):
            try:
                expected = _outputs(model, args, kwargs)
            except Exception:
                if position == 0:
                    raise
                continue  # this model has a fixed batch size
            if position and any(bool(t.isnan().any()) for t in expected):
                continue  # this model does not take any number
            found = _outputs(other, args, kwargs)
            if [t.shape for t in expected] != [t.shape for t in found]:
                return float("inf")
            worst = max(worst, *map(_gap, expected, found), 0.0)
    return worst


def _outputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    found = tensors_in(model(*args, **kwargs))
    return [t for t in found if (t.is_floating_point() or t.is_complex()) and t.numel()]


def _gap(a: Tensor, b: Tensor) -> float:
    wide = torch.complex128 if a.is_complex() else torch.float64
    if a.device.type == "mps":
        a, b = a.cpu(), b.cpu()
    a, b = a.to(wide), b.to(wide)
    scale = float(torch.where(a.isfinite(), a, 0.0).abs().max()) or 1.0
    gap = float(torch.where(a == b, 0.0, (a - b).abs()).max()) / scale  # -inf equals -inf
    return gap if math.isfinite(gap) else math.inf


def _variations(example: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    call = arguments(example)
    yield call
    sizes = {tensor.shape[0] for tensor in tensors_in(call) if tensor.ndim}
    if len(sizes) == 1:
        generator = torch.Generator().manual_seed(0)
        order = [*range(sizes.pop()), 0]

        def vary(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.ndim:
                return leaf
            taken = leaf[order]
            if not leaf.is_floating_point():
                return taken
            return _noise(taken, generator)

        yield tree_map(vary, call)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal random numbers, the same on every device, whatever torch's default device is."""
    shape = like.shape
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(like)


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
        with undisturbed(model), torch.no_grad(), plain_kernels(), watch:
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
    failed: dict[int, str] = {}
    biases: tuple[str, ...] = ()
    accepted = np.zeros(len(groups), bool)

    def settle(numbers: list[int]) -> None:
        attempt = accepted.copy()
        for number in numbers:
            attempt |= parts[number]
        outcome = _attempt(model, groups, attempt)
        if isinstance(outcome, Plan):
            nonlocal biases
            accepted[:], biases = attempt, outcome.biases
        elif len(numbers) == 1:
            failed[numbers[0]] = outcome
        else:
            settle(numbers[: len(numbers) // 2])
            settle(numbers[len(numbers) // 2 :])

    settle(list(range(len(parts))))
    return failed, biases


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
                parameter += 0.1 / math.sqrt(fan_in) * _noise(parameter, generator)
        for module in model.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                module.running_mean += 0.1 * _noise(module.running_mean, generator)
    return model


def precise(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """The model and its inputs in float32 where they were in half precision, if that runs.

    Half precision rounds so coarsely that a small mistake would pass for rounding.
    """
    if not any(t.dtype in _HALVES for t in state_of(model)):
        return model, example

    def widened(value: Any) -> Any:
        is_half = isinstance(value, Tensor) and value.dtype in _HALVES
        return value.float() if is_half else value

    wide, inputs = copy.deepcopy(model)._apply(widened), tree_map(widened, example)
    args, kwargs = arguments(inputs)
    try:
        with undisturbed(wide), torch.no_grad(), plain_kernels():
            wide(*args, **kwargs)
    except Exception:
        return model, example  # its code asks for halves
    return wide, inputs


def _attempt(model: nn.Module, groups: Groups, dead: np.ndarray) -> Plan | str:
    """The plan that removes `dead` groups, or why it doesn't leave an equal network."""
    zeroed = copy.deepcopy(model)
    factors = torch.from_numpy(np.where(dead, 0.0, 1.0))
    groups.on(zeroed).scale_(factors)
    try:
        removal = remove(zeroed, groups, dead)
        if removal.refused:
            return removal.refused[0][2]
        norms = groups.coupling.norms if groups.coupling else ()
        out = removal.plan.out
        with whole(removal.model, zeroed, norms, removal.dead, out):  # they alone may be inexact
            found = difference(zeroed, removal.model, groups.example)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"the smaller network does not run: {first}"
    if not agree(zeroed, found, groups.example):
        return f"removal changes the output by {found:.1e} of its scale"
    return removal.plan
