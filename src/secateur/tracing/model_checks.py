"""The door of this room: which models can be grouped, and what to do about those that can't.

In: any model. Out: the module inside its shells (torch.compile, DataParallel), or a refusal that
names the part in the way and says what to do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from secateur.utils.forward import state_of, unwrapped


def check_model(model: nn.Module, *, seen: str = "") -> nn.Module:
    """The model inside its shells, if its code can be followed and its parameters can be cut.

    Args:
        model: any module.
        seen: the kind of groups, if it has to see values.

    Raises:
        TypeError: it is no nn.Module, or a part of it is scripted or quantized.
        ValueError: a parameter or buffer has no plain values that could be trained, or none where
            they have to be seen.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a model (an nn.Module), got {_a(model)}")
    model = unwrapped(model)
    for name, module in model.named_modules():
        if reason := _hides_its_code(module):
            place = f"its module {name}" if name else "it"
            raise TypeError(f"{type(model).__name__} can't be grouped: {place} {reason}")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if reason := _has_no_plain_values(name, tensor):
            raise ValueError(f"{type(model).__name__} can't be grouped: {name} {reason}")
    if seen and is_on_meta(model):
        raise ValueError(
            f"{type(model).__name__} is on the meta device: what parts of it leave behind can only "
            f"be seen with values, so {seen} are grouped on a model that has some"
        )
    on_meta = [tensor.is_meta for tensor in state_of(model)]
    if any(on_meta) and not all(on_meta):
        names = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
        raise ValueError(
            f"{type(model).__name__} can't be grouped: a part of it is on the meta device "
            f"({', '.join(names[:3])}). Load its weights first, or move all of it: "
            'model.to("meta")'
        )
    return model


def is_on_meta(model: nn.Module) -> bool:
    """Whether a model is on the meta device, where tensors have shapes but no values."""
    return any(tensor.is_meta for tensor in state_of(model))


def _hides_its_code(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "is TorchScript, whose code can neither be followed nor cut. Pass the model as it was "
            "before torch.jit.script or torch.jit.trace, and script the small one"
        )
    home = type(module).__module__
    if ".quantized" in home and home.startswith(("torch.nn.", "torch.ao.nn.")):
        return (
            f"is quantized ({type(module).__name__}), and can't be trained. Group and shrink the "
            "floating point model, then quantize the small one"
        )
    return ""


def _has_no_plain_values(name: str, tensor: Tensor) -> str:
    if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
        return "has no shape yet (a lazy module). Run the model once on its inputs, then group it"
    if type(tensor).__name__ == "FakeTensor":
        return (
            "is a fake tensor. Use the meta device, which costs no memory either: "
            'with torch.device("meta"): model = Net()'
        )
    if hasattr(tensor, "__tensor_flatten__") or tensor.is_quantized:
        return (
            f"is a {type(tensor).__name__} of {tensor.dtype}; groups need plain tensors. Group the "
            "model before it is sharded or quantized; after sharding, go on with groups.on(model)"
        )
    if tensor.is_inference():
        return (
            "was made in torch.inference_mode(), and can't be trained. Make the model outside of "
            "it (torch.no_grad() is fine)"
        )
    return ""


def _a(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
