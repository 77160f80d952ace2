"""Configurations that follow a cut: what a library builds from one is the small network, or it says
how it differs.

In: a network that was cut and has a configuration, which its class is made from
(`Class(config)`). Out: the same network, whose configuration has the small sizes where one number
can say them for all layers. A value is kept only if a network built from it has exactly the small
one's modules, names, shapes and computed buffers, and the numbers that the code reads while it
runs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import isfunction, unwrap
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from secateur.surgery.forward_wrappers import Rerouted, Reshaping
from secateur.surgery.head_sizes import COUNTS
from secateur.surgery.module_removal import own_configurations

INNER = ("n_inner", "d_inner", "d_ff", "ffn_dim", "intermediate_size")  # None: a multiple
Value = int | float


def build(make: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """A network made from a configuration: parameters without memory, buffers with their values."""
    dtype = getattr(config, "dtype", None)
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), _parameters_on_meta():
        try:
            if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
                torch.set_default_dtype(dtype)
            return make(config)
        finally:
            torch.set_default_dtype(before)


def rebuilt(model: nn.Module, config: Any) -> nn.Module | None:
    """What the class of `model` makes of a configuration that was written and read again.

    None where it makes nothing of it.
    """
    try:
        read = type(config).from_dict(config.to_dict())
        chosen = getattr(config, "_attn_implementation", None)
        if chosen is not None:  # which a file does not hold
            read._attn_implementation = chosen
        return build(type(model), read)
    except Exception:  # whatever a library or the user's own class raises
        return None


def follow(model: nn.Module) -> None:
    """Let the configuration of a network that was cut have the small sizes, where it can, in place.

    Of the sizes that are tried, the one stays that brings the network that is built the closest,
    then another beside it; if it doesn't arrive, nothing is changed.
    """
    config: Any = copy.deepcopy(model.config)
    other = rebuilt(model, config)
    if other is None or not _sizes_agree(model, other):
        return
    gap, changed = len(differences(model, other)), {}
    while gap:
        tried = []
        for path, value in _candidates(config, model, other):
            before = get(config, path)
            put(config, path, value)
            if (closer := rebuilt(model, config)) is not None:
                tried.append((len(differences(model, closer)), path, value, closer))
            put(config, path, before)
        best = min(tried, key=lambda attempt: attempt[0], default=None)
        if best is None or best[0] >= gap:
            return
        gap, path, value, other = best
        put(config, path, value)
        changed[path] = value
    if changed:
        own_configurations(model)
        for path, value in changed.items():
            put(model.config, path, value)


def differences(model: nn.Module, other: nn.Module) -> list[str]:
    """What tells two networks apart, their parameters' values aside."""
    found = shape_differences(model, other)
    mine, its = dict(model.named_modules()), dict(other.named_modules())
    for name in mine.keys() | its.keys():
        if name not in mine or name not in its or type(mine[name]) is not type(its[name]):
            found.append(name)
        else:
            here, there = _numbers(mine[name]), _numbers(its[name])
            keys = here.keys() | there.keys()
            found += [f"{name}.{key}" for key in keys if here.get(key) != there.get(key)]
            if isinstance(vars(mine[name]).get("forward"), (Reshaping, Rerouted)):
                found.append(f"{name}.forward")
    state, buffers = model.state_dict(), dict(other.named_buffers())
    for name, buffer in model.named_buffers():
        if name not in state and not (name in buffers and _equal(buffer, buffers[name])):
            found.append(name)  # it is computed anew from the configuration
    return found


def shape_differences(model: nn.Module, other: nn.Module) -> list[str]:
    """The names of what is saved that only one has, or in another shape, or tied otherwise."""
    mine, its = _shapes(model), _shapes(other)
    return [name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name)]


def sizes_before(config: Any, before: Any) -> dict[str, Any]:
    """The values that another configuration had where this one differs: path -> value."""
    mine, its = dict(_values(config)), dict(_values(before))
    return {path: its[path] for path, value in mine.items() if value != its.get(path, value)}


def get(config: Any, path: str) -> Any:
    """A value in a configuration, such as "text_config.hidden_size"."""
    for name in path.split("."):
        config = vars(config)[name]
    return config


def put(config: Any, path: str, value: Any) -> None:
    """Set a value in a configuration, in place."""
    holder, _, name = path.rpartition(".")
    setattr(get(config, holder) if holder else config, name, value)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    def move(module: nn.Module, name: str, parameter: Any) -> Any:
        if parameter is None or parameter.is_meta:  # tied ones stay one
            return None
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(move)
    try:
        yield
    finally:
        handle.remove()


def _shapes(model: nn.Module) -> dict[str, Any]:
    """The shape of whatever is saved, and the name that it is tied to (its own if to none)."""
    first: dict[int, str] = {}
    return {
        name: (tuple(getattr(tensor, "shape", ())), first.setdefault(id(tensor), name))
        for name, tensor in model.state_dict(keep_vars=True).items()
    }


def _cuts(model: nn.Module, other: nn.Module) -> Iterator[tuple[str, int, int]]:
    """A dimension of a tensor in all layers -> its size in `other` and in the small network."""
    mine, its = _shapes(model), _shapes(other)
    for name in mine.keys() & its.keys():
        (new, _), (old, _) = mine[name], its[name]
        if len(new) == len(old):
            role = re.sub(r"(^|\.)\d+(?=\.)", r"\1#", name)
            yield from (
                (f"{role}[{dim}]", *pair) for dim, pair in enumerate(zip(old, new, strict=True))
            )


def _sizes_agree(model: nn.Module, other: nn.Module) -> bool:
    """Whether all layers were cut to one size: else no number can say it, and none is tried."""
    found: dict[tuple[str, int], int] = {}
    return all(found.setdefault((role, old), new) == new for role, old, new in _cuts(model, other))


def _candidates(config: Any, model: nn.Module, other: nn.Module) -> Iterator[tuple[str, Value]]:
    """What a configuration may say instead: the likeliest first."""
    cuts = {(old, new) for _, old, new in _cuts(model, other) if old != new}
    numbers = set[tuple[Any, Value]]()
    its = dict(other.named_modules())
    for name, module in model.named_modules():
        if name in its and type(module) is type(its[name]):
            old = _numbers(its[name])
            numbers |= {(old.get(k), x) for k, x in _numbers(module).items() if type(x) is float}
    tried = list[tuple[int, str, Value]]()
    for path, value in _values(config):
        name = path.rpartition(".")[2]
        if type(value) is float:
            tried += [(2, path, new) for old, new in numbers if value == old != new]
        elif type(value) is int and value > 1:
            tried += [(0, path, new) for old, new in cuts if value == old]
            if name in COUNTS:
                shares = {value * new // old for old, new in cuts if value * new % old == 0}
                tried += [(1, path, new) for new in shares - {0, value} if (value, new) not in cuts]
        elif value is None and name in INNER:
            tried += [(3, path, new) for _, new in cuts]
    yield from ((path, value) for _, path, value in sorted(set(tried)))


def _values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a configuration and those inside it hold, by path."""
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _numbers(module: nn.Module) -> dict[str, Any]:
    """The numbers that a module and its configuration hold and its code reads while it runs."""
    read = _read_while_running(type(module))
    found = {name: value for name, value in vars(module).items() if name in read}
    config = vars(module).get("config")
    inside = _values(config) if "config" in read and hasattr(config, "to_dict") else ()
    found |= {f"config.{p}": value for p, value in inside if p.rpartition(".")[2] in read}
    return {
        name: value if type(value) in (int, float, tuple) else None for name, value in found.items()
    }


@cache
def _read_while_running(kind: type[nn.Module]) -> frozenset[str]:
    """The names of attributes in a forward and in what it calls of its class and its file."""
    names: set[str] = set()
    files = {base.__module__ for base in kind.__mro__} - {nn.Module.__module__}
    todo, done = [unwrap(kind.forward)], set[Any]()
    while todo:
        function = todo.pop()
        if not isfunction(function) or function in done or function.__module__ not in files:
            continue
        done.add(function)
        found = set(_names(function.__code__))
        names |= found
        for name in found:
            called: Any = getattr(kind, name, None) or function.__globals__.get(name)
            todo.append(unwrap(called))
    return frozenset(names)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _equal(buffer: Tensor, other: Tensor) -> bool:
    """Whether a buffer has the values of another, in its own precision."""
    return buffer.shape == other.shape and torch.equal(other.to(buffer), buffer)
