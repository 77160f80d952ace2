"""Saving and loading small networks: safetensors with the plan as JSON metadata, no pickle.

In: a small network. Out: one file, from which the full-size class rebuilds the same small network.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from secateur.groups.removal import Plan, cut

FORMAT = "1"


class FileError(ValueError):
    """The file is damaged, foreign, or does not fit the model; nothing was changed."""


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a small network to one safetensors file.

    The tensors are its state_dict, tied ones once; the plan that cut it out of the full-size network
    is JSON in the metadata. The file is written beside the old one and replaces it at the end, so
    that a full disk or an interruption leaves the old file as it was.

    Args:
        model: what `shrink` returned, trained on or not (or any other module).
        path: such as "small.safetensors".

    Returns:
        The path.

    Raises:
        OSError: the file can't be written; an older file is intact.

    Example:
        >>> import tempfile
        >>> import secateur as sc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = sc.save(nn.Linear(2, 2), f"{folder}/small.safetensors")
        ...     sc.load(path, model=nn.Linear(2, 2))
        Linear(in_features=2, out_features=2, bias=True)
    """
    path = Path(path)
    plan = getattr(model, "secateur", None) or Plan()
    tensors, aliases = _distinct(model.state_dict())
    metadata = {
        "format": "pt",
        "secateur": FORMAT,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "plan": json.dumps(
            {
                "kept": {
                    name: {str(dim): list(indices) for dim, indices in dims.items()}
                    for name, dims in plan.kept.items()
                },
                "biases": list(plan.biases),
                "groups": {kind: list(counts) for kind, counts in plan.groups.items()},
                "aliases": aliases,
            }
        ),
    }
    _write_atomically(path, to_bytes(tensors, metadata))
    return path


def load(path: str | os.PathLike[str], *, model: nn.Module) -> nn.Module:
    """Rebuild a small network from its file and a full-size model.

    Args:
        path: a file that `save` wrote.
        model: a full-size model of the class that was shrunk, such as `Net()`; its weights don't
            matter. It is cut and filled in place and returned.

    Returns:
        `model`, now small, with the file's weights, in the mode it was given in; it trains on and
        exports like any other module.

    Raises:
        FileError: the file is damaged, was not written by `save`, or does not fit the model, which is
            left as it was.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    tensors, plan, aliases = _read(path)
    state = {**tensors, **{name: tensors[of] for name, of in aliases.items() if of in tensors}}
    try:
        _check_fit(model, plan, state)
    except ValueError as error:
        raise FileError(f"{path} does not fit this {type(model).__name__}: {error}") from error
    cut(model, plan)
    model.load_state_dict(state, assign=False)
    model.secateur = plan  # pyright: ignore
    return model


def _distinct(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that are stored once, and other names -> the name they are stored under."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} in the state_dict is a {type(tensor).__name__}, not a tensor")
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
        else:
            seen[place] = name
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    return tensors, aliases


def _read(path: Path) -> tuple[dict[str, Tensor], Plan, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"{path} is not a readable safetensors file: {error}") from error
    if metadata.get("secateur") != FORMAT:
        found = metadata.get("secateur")
        raise FileError(
            f"{path} was not written by secateur.save"
            if found is None
            else f"{path} has format {found}; this version reads format {FORMAT}"
        )
    try:
        raw = json.loads(metadata["plan"])
        plan = Plan(
            {
                name: {int(dim): tuple(map(int, indices)) for dim, indices in dims.items()}
                for name, dims in raw["kept"].items()
            },
            tuple(raw["biases"]),
            {kind: (int(kept), int(total)) for kind, (kept, total) in raw["groups"].items()},
        )
        aliases = dict(raw["aliases"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path} holds a damaged plan: {error!r}") from error
    return tensors, plan, aliases


def _check_fit(model: nn.Module, plan: Plan, state: dict[str, Tensor]) -> None:
    """Every shape after the cut must be the file's; raises ValueError before anything is changed."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, dims in plan.kept.items():
        if name not in shapes and name not in dict(model.named_buffers()):
            raise ValueError(f"it has no {name}")
        for dim, indices in dims.items() if name in shapes else ():
            if dim >= len(shapes[name]) or max(indices, default=-1) >= shapes[name][dim]:
                raise ValueError(f"{name} has shape {tuple(shapes[name])}, too small for the plan")
            shapes[name][dim] = len(indices)
    for name in plan.biases:
        if name not in state:
            raise ValueError(f"the file has no {name}")
        shapes[name] = list(state[name].shape)
    missing, extra = sorted(set(shapes) - set(state)), sorted(set(state) - set(shapes))
    if missing or extra:
        raise ValueError(
            f"\n  the model also has {missing[:3] or 'nothing else'}"
            f"\n  the file also has  {extra[:3] or 'nothing else'}"
        )
    for name, shape in shapes.items():
        if shape != list(state[name].shape):
            raise ValueError(
                f"\n  {name} would have shape {tuple(shape)}"
                f"\n  the file has        {tuple(state[name].shape)}"
            )


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
