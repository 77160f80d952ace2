"""How a model is run to be understood: in eval mode, without a trace of the run left on it.

utils/forward.py runs a model as its user would; here, attention and recurrence also take the
plain kernels, which show every product.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.utils.forward import evaluating, unfused_attention, without_cudnn


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, data classes and output objects."""
    return _tensors_in(value, set())


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in seen:  # an object that refers to itself
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        items = list(value.values())
    elif isinstance(value, (tuple, list, set)):
        items = list(value)
    elif dataclasses.is_dataclass(value):
        items = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    elif hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
        items = list(vars(value).values())
    else:
        return
    for item in items:
        yield from _tensors_in(item, seen)


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards modes, buffers and random numbers are as they were before.

    Inside, the model's own Python runs, not what torch.compile made of it; inference mode is off,
    in which no operator shows itself; and autocast casts anew, so that it keeps no cast of ours.
    """
    buffers = [
        (module, name, tensor, None if tensor is None else tensor.clone())
        for module in model.modules()
        for name, tensor in module._buffers.items()
    ]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with (
            evaluating(model),
            torch.random.fork_rng(sorted(d.index for d in devices)),
            torch.inference_mode(False),
            torch.compiler.set_stance("force_eager"),
            _without_autocast_s_memory(),
        ):
            yield
    finally:
        for module, name, tensor, before in buffers:
            module._buffers[name] = tensor
            if tensor is None or before is None or tensor.is_meta or torch.equal(tensor, before):
                continue
            with torch.no_grad():
                tensor.copy_(before)


@contextmanager
def _without_autocast_s_memory() -> Iterator[None]:
    """Autocast keeps casts of weights: made without gradients they would spoil training."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextmanager
def unfused_ops() -> Iterator[None]:
    """Attention as matrix products, modules without fused fast paths: labels can follow."""
    with unfused_attention(), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def unfused_rnn() -> Iterator[None]:
    """Recurrent networks as matrix products, one after another: labels can follow."""
    with warnings.catch_warnings():  # CPUs without TF32 are told that they have none
        warnings.simplefilter("ignore")
        with without_cudnn(), torch.backends.mkldnn.flags(enabled=False):
            yield
