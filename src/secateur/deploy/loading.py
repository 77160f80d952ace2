"""`load`: a small network rebuilt from its file and the full-size class, or nothing changed.

In: a file that `save` wrote (see saving.py) and a full-size model. Out: the same model, small.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from reprlib import repr as short
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateur.deploy.saving import FORMAT, save
from secateur.deploy.small_pretrained import configuration, keep_pretrained
from secateur.surgery.cut import cut
from secateur.surgery.module_removal import check_replacements, remove_from_lists
from secateur.surgery.plan import Plan, plan_of
from secateur.utils.json import read_json, typed

Network = TypeVar("Network", bound=nn.Module)


class FileError(ValueError):
    """The file is damaged, foreign, or does not fit the model; nothing was changed."""


def load(path: str | os.PathLike[str], *, model: Network) -> Network:
    """Rebuild a small network from its file and a full-size model.

    Args:
        path: a file that `save` wrote.
        model: a full-size model of the class that was shrunk, such as `Net()`; its weights don't
            matter. It is cut and filled in place. On the meta device it costs no memory:
            `with torch.device("meta"): model = Net()`.

    Returns:
        `model`, now small, with the file's weights and dtypes, in the mode (training or not) that
        was saved and with its own requires_grad, on its own device (on the CPU where it was on the
        meta device). It trains on, shrinks and exports like any other module. Parameters that were
        cut are new: make the optimizer after loading. The others are filled in place, so that
        whatever else refers to them has the file's values, too.

    Raises:
        FileError: the file is damaged, was not written by `save`, or does not fit the model, which
            is left as it was.
        OSError: the file can't be opened; FileNotFoundError where there is none.
        TypeError: `model` is a class instead of a model.

    Example:
        >>> import tempfile, torch
        >>> import secateur as sc
        >>> from secateur.shrinking import shrink
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> groups = sc.neurons(model, torch.ones(1, 4))
        >>> small = shrink(model, groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1])))
        >>> full = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sc.load(sc.save(small, f"{folder}/small.safetensors"), model=full)
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    if isinstance(model, type):
        name = model.__name__
        raise TypeError(f"load: expected a full-size model such as {name}(), got the class {name}")
    tensors, plan, origin, modes = _read(path)
    config = configuration(model)
    try:
        with _all_or_nothing(model):
            _refuse_small(model)
            cut(model, plan)
            remove_from_lists(model, plan.out)
            _check_names_and_shapes(model, tensors)
            in_place = _fill(model, tensors)
    except Exception as error:
        raise FileError(
            f"{path} holds a {origin}, which does not fit this {type(model).__name__}: {error}\n"
            "  pass a new full-size model of the class that was shrunk; this one is unchanged"
        ) from error
    with torch.no_grad():
        for old, new in in_place:  # nothing goes wrong any more
            old.copy_(new)
    _set_modes(model, modes)
    model.secateur = plan  # pyright: ignore
    keep_pretrained(model, config, save)
    return model


def _set_modes(model: nn.Module, modes: list[Any]) -> None:
    for name, module in model.named_modules() if modes else ():
        module.training = bool(modes[0]) != (name in modes[1:])


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Plan, str, list[Any]]:
    """The tensors by all their names, tied ones as one object; plan, the class's name, modes."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            plan, aliases = _plan_from_metadata(path, metadata)
            # a tensor in the reader's hands is a view of the file: a copy outlives the file
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileError(f"{path} is not a readable safetensors file: {error}") from error
    for name, stored in aliases.items():
        if stored not in tensors:
            raise FileError(f"{path} is damaged: {name} is tied to {stored}, which is not there")
        tensors[name] = tensors[stored]
    return tensors, plan, metadata.get("class", "network"), _modes_from(path, metadata)


def _modes_from(path: str | os.PathLike[str], metadata: dict[str, str]) -> list[Any]:
    """Whether the network trains, then its modules that don't do as it does; [] if unknown."""
    try:
        modes = read_json(metadata.get("modes", "[]"), list[Any])
        return [*typed(modes[:1], list[bool]), *typed(modes[1:], list[str])]
    except ValueError as error:
        raise FileError(
            f"{path} is damaged: modes in its metadata is no list of a bool and names: {error}"
        ) from error


def _plan_from_metadata(
    path: str | os.PathLike[str], metadata: dict[str, str]
) -> tuple[Plan, dict[str, str]]:
    version = metadata.get("secateur")
    if version is None:
        raise FileError(f"{path} was not written by secateur.save: its metadata has no plan")
    if version != FORMAT:
        raise FileError(
            f"{path} has format {version!r}; this version of secateur reads format {FORMAT!r}. "
            "Load it with the version that wrote it, or with a newer one"
        )
    try:
        facts = read_json(metadata.get("plan", ""), dict[str, Any])
        if missing := {"kept", "biases", "groups", "aliases"} - facts.keys():
            raise ValueError(f"the field {min(missing)!r} is missing")
        aliases = typed(facts.pop("aliases"), dict[str, str], "aliases")
        plan = typed(facts, Plan)
        _check_indices(plan)
        check_replacements(plan.absent)
        return plan, aliases
    except ValueError as error:
        raise FileError(f"{path} holds a damaged plan: {error}") from error


def _check_indices(plan: Plan) -> None:
    for name, dims in plan.kept.items():
        for dim, indices in dims.items():
            if not indices or indices[0] < 0 or any(a >= b for a, b in pairwise(indices)):
                raise ValueError(
                    f"kept[{name!r}][{dim}]: indices must ascend from 0 on, got {short(indices)}"
                )


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Put back every module's parameters, buffers and attributes if anything goes wrong inside.

    References are enough: neither `cut` nor `_fill` writes into an old tensor.
    """
    contents = ("_parameters", "_buffers", "_modules")
    before = [
        (
            module,
            type(module),
            dict(vars(module)),
            {name: dict(vars(module)[name]) for name in contents},
        )
        for module in model.modules()
    ]
    try:
        yield
    except BaseException:
        for module, kind, attributes, inside in before:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
            for name in contents:
                vars(module)[name].clear()
                vars(module)[name].update(inside[name])
        raise


def _refuse_small(model: nn.Module) -> None:
    plan = plan_of(model)
    if plan is not None and (plan.kept or plan.absent):
        raise ValueError("it is small already (its weights alone go in by load_state_dict)")


def _check_names_and_shapes(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = model.state_dict()
    missing, extra = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or extra:
        raise ValueError(
            f"\n  only the model has {', '.join(missing[:3]) or 'nothing'}"
            f"\n  only the file has  {', '.join(extra[:3]) or 'nothing'}"
        )
    for name, tensor in state.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"\n  {name} in the model {tuple(tensor.shape)}, once cut"
                f"\n  {name} in the file  {tuple(tensors[name].shape)}"
            )
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in state:
            raise ValueError(
                f"the buffer {name} is on the meta device and not in the file, "
                "because it isn't persistent; make the model on the CPU"
            )


def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The file's tensors become the model's; those stored once become one parameter.

    Returns:
        The model's own tensors that fit, with what is to be copied into them at the end.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    given = model.state_dict(keep_vars=True)
    times = Counter(map(id, given.values()))
    state: dict[str, Tensor] = {}
    in_place = []
    for same in names.values():
        new, olds = tensors[same[0]], [given[name] for name in same]
        if len({*map(id, olds)}) == 1 and times[id(olds[0])] == len(same) and _fits(olds[0], new):
            in_place.append((olds[0].detach(), new))
            state.update((name, olds[0]) for name in same)
            continue
        made: dict[bool, Tensor] = {}
        for name, old in zip(same, olds, strict=True):
            is_parameter = isinstance(old, nn.Parameter)
            if is_parameter not in made:
                value = new if old.is_meta else new.to(old.device)
                made[is_parameter] = (
                    nn.Parameter(value, old.requires_grad) if is_parameter else value
                )
            state[name] = made[is_parameter]
    model.load_state_dict(state, assign=True)
    return in_place


def _fits(old: Tensor, new: Tensor) -> bool:
    """Whether a tensor can take another's values, each number in a place of its own."""
    plain = type(old) in (Tensor, nn.Parameter, nn.Buffer) and not (
        old.is_meta or old.is_inference()
    )
    spread = all(stride for stride, size in zip(old.stride(), old.shape, strict=True) if size > 1)
    return plain and spread and old.dtype == new.dtype and old.shape == new.shape
