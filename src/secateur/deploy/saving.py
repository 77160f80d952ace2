"""`save` and `load`: a small network as one safetensors file, without pickle.

In: a small network. Out: a file, from which the full-size class rebuilds the same small network.

Any reader of safetensors can open the file. Its tensors are the network's state_dict, tied ones
once; its metadata has these keys, all strings:

    format      "pt": the tensors come from torch
    secateur    the version of this layout, "1"
    class       where the network's class was defined, "module.qualified.Name"; read by people only
    modes       JSON: whether the network trains, then its modules that don't do as it does; may
                be missing
    plan        JSON: how the small network was cut out of the full-size one
        kept        {tensor: {dimension: [indices kept, ascending]}}; what isn't named is whole
        biases      [biases that only the small network has]
        groups      {kind: [groups kept, groups in all]}
        sizes       {module: {attribute that holds a size: its value}}; may be missing
        reshaped    {module whose code follows the width of its heads: size of a head}; likewise
        absent      {module that left whole: what takes its place (module_removal.py)}; likewise
        norms       {normalisation: {attribute such as eps: its number, or a list}}; likewise
        rerouted    {module with stacked experts: [new place of each expert]}; likewise
        difference  by how much the outputs changed, where they weren't to be equal; likewise
        full        {measure of a budget: what the full-size network cost}; likewise
        aliases     {name of a tied tensor: the name that it is stored under}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from secateur.surgery.module_removal import name_after
from secateur.surgery.plan import Plan, plan_of
from secateur.utils.distributed import is_dtensor
from secateur.utils.files import write_atomically
from secateur.utils.forward import unwrapped, without_shells
from secateur.utils.name_trees import is_inside

FORMAT = "1"


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    state_dict: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a small network to one safetensors file.

    The file is written beside an old one and takes its place at the end, so that a full disk or an
    interruption leaves the old file as it was.

    Args:
        model: what `shrink` returned, trained on or not (or any other module). Of shells around it
            or around its modules (torch.compile, DistributedDataParallel, AveragedModel) the
            network inside is saved.
        path: such as "small.safetensors"; missing folders are made.
        state_dict: what is written in the place of the network's own, such as averages of it.

    Returns:
        The path.

    Raises:
        OSError: the file can't be written; an older file is intact.
        TypeError: the state_dict holds something that a file can't: no tensor, or a quantized,
            sparse, meta or otherwise special one; or layers were fused or masked since `shrink`.

    Example:
        >>> import tempfile
        >>> import secateur as sc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = sc.save(nn.Linear(2, 2), f"{folder}/small.safetensors")
        ...     sc.load(path, model=nn.Linear(2, 2))
        Linear(in_features=2, out_features=2, bias=True)
    """
    path, model = Path(path), unwrapped(model)
    state = model.state_dict() if state_dict is None else dict(state_dict)
    tensors, aliases = _distinct(without_shells(state))
    plan = plan_of(model) or Plan()
    _refuse_changed(model, plan)
    metadata = {
        "format": "pt",
        "secateur": FORMAT,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "modes": json.dumps(_modes(model)),
        "plan": json.dumps({**vars(plan), "aliases": aliases}),
    }
    write_atomically(path, to_bytes(tensors, metadata))
    return path


# -- writing ---------------------------------------------------------------------------------------


def _distinct(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that are stored once, and other names -> the name they are stored under."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        _refuse_special(name, tensor)
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and place in names:
            aliases[name] = names[place]
            continue
        names[place] = name
        tensors[name] = tensor.detach().cpu().contiguous()
        storage = tensors[name].untyped_storage().data_ptr()
        if storage in storages:  # views of one memory: safetensors takes each tensor on its own
            tensors[name] = tensors[name].clone()
        storages.add(storage)
    return tensors, aliases


def _refuse_changed(model: nn.Module, plan: Plan) -> None:
    """What was cut has to be there: a layer that was fused or masked since has other tensors."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    there = without_shells(dict(named))
    for name in plan.kept:
        now = name_after(name, plan.out)
        if now is not None and now not in there and not is_inside(name, plan.absent):
            raise TypeError(
                f"save: {now} was cut by shrink and is no longer there; save a network before "
                "its layers are fused, quantized or masked (torch.nn.utils.prune.remove makes a "
                "mask permanent)"
            )


def _refuse_special(name: str, tensor: Any) -> None:
    """What a safetensors file can't hold, or could not be put back from it."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"save: {name} in the state_dict is a {type(tensor).__name__}; only tensors can be "
            "saved. Keep such extra state in a file of its own; save a network before it is "
            "quantized"
        )
    reasons = {
        "quantized: save the network before it is quantized": tensor.is_quantized,
        f"{tensor.layout}: keep it dense": tensor.layout != torch.strided,
        "on the meta device, without values": tensor.is_meta,
        "split over processes: save a full state on one process": is_dtensor(tensor),
        f"a {type(tensor).__name__}: save the network before it is converted": type(tensor)
        not in (Tensor, nn.Parameter, nn.Buffer, UninitializedParameter),
        "not initialised: run the network once": isinstance(tensor, UninitializedParameter),
    }
    for reason, holds in reasons.items():
        if holds:
            raise TypeError(f"save: {name} in the state_dict is {reason}")


def _modes(model: nn.Module) -> list[Any]:
    """Whether the network trains, and the modules that don't do as it does."""
    others = [n for n, m in model.named_modules() if m.training != model.training]
    return [model.training, *without_shells(dict.fromkeys(others))]
