"""Constants that dead channels leave behind, as behind a sigmoid: folded into the next bias.

In: a model and its dead groups. Out: what each layer reads on its dead inputs, and later the biases
of the small model that take it over.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.groups.coupling import Coupling
from secateur.groups.groups import Groups
from secateur.surgery.conv_kernels import padding, pads_with_zeros
from secateur.surgery.plan import Plan
from secateur.surgery.variations import others, usual
from secateur.tracing.certainty.run import uncertain
from secateur.utils.contexts import preserve_state, unfused_ops
from secateur.utils.forward import arguments, calling, examples_of, full_precision


@dataclass
class _Seen:
    """The least and the largest value of each input channel of a layer over a run."""

    low: Tensor
    high: Tensor


def _consumers(
    model: nn.Module, coupling: Coupling, dead: np.ndarray
) -> Iterator[tuple[str, nn.Module, np.ndarray]]:
    """Layers that read dead channels: name, module, and the group of each input.

    -1 where the input is alive, or all the weights that read it are zero.
    """
    padded = np.append(dead, False)
    for slot in coupling.slots:
        for name in slot.names:
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            is_convolution = isinstance(module, _ConvNd) and module.groups == 1
            if leaf == "weight" and (isinstance(module, nn.Linear) or is_convolution):
                entries = slot.entries[0 if getattr(module, "transposed", False) else 1]
                if entries is not None and padded[entries].any():
                    dim = 0 if getattr(module, "transposed", False) else 1
                    taps = module.weight.detach().movedim(dim, 0).flatten(1)  # pyright: ignore
                    read = (taps != 0).any(1).cpu().numpy()
                    yield owner, module, np.where(padded[entries] & read, entries, -1)


def constants(
    model: nn.Module, coupling: Coupling | None, example: Any, dead: np.ndarray
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """What each layer reads on its dead inputs, and the dead groups that can't be folded."""
    consumers = list(_consumers(model, coupling, dead)) if coupling else []
    if not consumers:
        return {}, {}
    seen: dict[str, _Seen] = {}
    hooks = [
        module.register_forward_pre_hook(_watch(seen, name, module), with_kwargs=True)
        for name, module, _ in consumers
    ]
    try:
        with preserve_state(model), torch.no_grad(), unfused_ops(), full_precision():
            for own in examples_of(example):
                args, kwargs = arguments(own)
                with calling(model, own):
                    model(*args, **kwargs)
            if any(_leaves_a_constant(seen.get(name), inputs) for name, _, inputs in consumers):
                _run_on_others(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    constants: dict[str, Tensor] = {}
    refused: dict[int, str] = {}
    for name, module, inputs in consumers:
        if name not in seen:
            continue  # called through a function: the numerical check has the last word
        low, high = seen[name].low.cpu().numpy(), seen[name].high.cpu().numpy()
        scale = max(1.0, float(np.abs(high).max(initial=0)), float(np.abs(low).max(initial=0)))
        is_dead = inputs >= 0
        changing = is_dead & (high - low > 1e-6 * scale)
        for group in inputs[changing].tolist():
            refused[group] = f"{name} reads a value from it that changes with the input"
        constant = np.where(is_dead & ~changing, low, 0.0)
        if _pads_with_zeros(module):
            for group in inputs[is_dead & (constant != 0)].tolist():
                refused[group] = f"{name} pads a constant of it with zeros"
        elif constant.any():
            constants[name] = torch.from_numpy(constant)
    return constants, refused


def _leaves_a_constant(seen: _Seen | None, inputs: np.ndarray) -> bool:
    """Whether a layer reads anything but zeros on its dead inputs."""
    return seen is not None and bool((seen.low != 0)[torch.from_numpy(inputs >= 0)].any())


def _run_on_others(model: nn.Module, example: Any) -> None:
    """A constant may come from a size or a number: it has to be the same at others."""
    twin = copy.deepcopy(model)  # with its hooks; code may remember sizes that it has seen
    for own in examples_of(example):
        with calling(twin, own):
            for variation in (*usual(own), *others(own, flags=True)):
                for args, kwargs in variation.calls:
                    try:
                        twin(*args, **kwargs)
                    except Exception:
                        continue
                    break


def unproven(model: nn.Module, groups: Groups, dead: np.ndarray) -> dict[int, str]:
    """Dead groups that leave behind what may be something else on other inputs, and why.

    Zeros, and constants that the parameters alone give, are the same whatever the inputs are.
    """
    if groups.coupling is None or groups.example is None or not dead.any():
        return {}
    padded = np.append(dead, False)
    places: dict[str, Tensor] = {}
    for slot in groups.coupling.slots:
        cut = torch.full([1] * len(slot.shape), -1, device="cpu")
        for dim, entries in enumerate(slot.entries):
            if entries is not None and padded[entries].any():
                line = torch.from_numpy(np.where(padded[entries], entries, -1))
                cut = torch.maximum(
                    cut, line.reshape([-1 if d == dim else 1 for d in range(cut.ndim)])
                )
        if bool((cut >= 0).any()):
            places |= dict.fromkeys(slot.names, cut)
    found = uncertain(model, groups.example, places)
    return {
        group: f"what it leaves behind depends on more than the parameters ({why})"
        for group, why in found.items()
    }


def _pads_with_zeros(module: nn.Module) -> bool:
    """Whether a constant input reaches some outputs with fewer taps than others."""
    if not isinstance(module, _ConvNd):
        return False
    adds = any(max(sides) > 0 for sides in padding(module))
    return module.transposed or (adds and pads_with_zeros(module))


def _watch(seen: dict[str, _Seen], name: str, module: nn.Module) -> Any:
    channel = -1 if isinstance(module, nn.Linear) else -len(module.weight.shape) + 1  # pyright: ignore

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = (args[0] if args else kwargs["input"]).movedim(channel, 0)
        x = x.reshape(len(x), -1)
        low, high = x.amin(1).double(), x.amax(1).double()
        if name in seen:
            low, high = torch.minimum(low, seen[name].low), torch.maximum(high, seen[name].high)
        seen[name] = _Seen(low, high)

    return hook


def fold_constants(
    small: nn.Module, model: nn.Module, constants: dict[str, Tensor], plan: Plan, dead: np.ndarray
) -> Iterator[str]:
    """Add what removed inputs contributed to each layer's bias; yields the biases that are new."""
    for name, constant in constants.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        taps = weight.detach().double()
        taps = taps.sum(tuple(range(2, taps.ndim))) if taps.ndim > 2 else taps
        removed = torch.ones(len(constant), dtype=torch.bool, device="cpu")
        removed[list(plan.kept.get(f"{name}.weight", {}).get(1, range(len(constant))))] = False
        shift = taps @ (constant * removed).to(taps.device)
        kept = plan.kept.get(f"{name}.weight", {}).get(0)
        shift = shift if kept is None else shift[list(kept)]
        layer = small.get_submodule(name)
        if layer.bias is None:
            layer.bias = nn.Parameter(shift.to(weight.dtype))
            yield f"{name}.bias"
        else:
            layer.bias.data += shift.to(weight.dtype)  # pyright: ignore
