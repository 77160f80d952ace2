"""What people write on a command line, as what the library takes.

In: words such as "package.module:function", "1,3,32,32" (budget/words.py reads budgets). Out: a
function, a tensor; or an error that says what to write instead.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from secateur import kinds
from secateur.groups import Groups
from secateur.utils.name_trees import is_inside

KINDS: dict[str, Callable[..., Groups]] = {
    kind.__name__: kind
    for kind in (
        kinds.filters,
        kinds.neurons,
        kinds.channels,
        kinds.shapes,
        kinds.heads,
        kinds.depth,
        kinds.experts,
        kinds.width,
        kinds.blocks,
        kinds.n_of_m,
        kinds.weights,
    )
}
NO_EXAMPLE = {"blocks", "n_of_m", "weights"}  # kinds that are found without a run of the model
DEFAULTS = {"sgd": (0.1, 5e-4), "adamw": (1e-3, 0.01)}  # learning rate, weight decay


def resolve(text: str, option: str) -> Callable[..., Any]:
    """Import PACKAGE.MODULE:NAME; the current folder is importable.

    Raises:
        ValueError: no such module or name, or it can't be called.

    Example:
        >>> resolve("torch.nn:Linear", "--model").__name__
        'Linear'
    """
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"{option} {text}: write PACKAGE.MODULE:NAME, such as my_model:MyNet")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and is_inside(module_name, [error.name]):
            raise ValueError(
                f"{option} {text}: no module {module_name!r} in {os.getcwd()} or the environment"
            ) from error
        raise ValueError(f"{option} {text}: {module_name} needs {error.name!r}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n))]
            raise ValueError(
                f"{option} {text}: {module_name} has no {part!r}; it has {', '.join(near[:8])}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{option} {text}: expected a function or class, got {found!r:.60}")
    return found


def make_model(text: str) -> nn.Module:
    """Call a model factory.

    Raises:
        ValueError: it failed, or returned something else.
    """
    found = called(text, "--model")
    if not isinstance(found, nn.Module):
        raise ValueError(f"--model {text}: returned a {type(found).__name__}, not an nn.Module")
    return found


def make_data(text: str, batch_size: int | None = None) -> Any:
    """Call a data function, with batch_size= where one is given.

    Raises:
        ValueError: it failed.
    """
    return called(text, "--data", {} if batch_size is None else {"batch_size": batch_size})


def called(text: str, option: str, arguments: dict[str, Any] | None = None) -> Any:
    """What PACKAGE.MODULE:NAME returns when it is called.

    Raises:
        ValueError: there is no such function, or it failed.
    """
    function, arguments = resolve(text, option), arguments or {}
    try:
        return function(**arguments)
    except Exception as error:
        words = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ValueError(
            f"{option} {text}: calling it with ({words}) failed: {type(error).__name__}: {error}"
        ) from error


def parse_example(texts: Sequence[str]) -> Any:
    """Read example inputs: one shape each, such as "1,3,32,32", or "1,16:int64" for tokens.

    Returns:
        A tensor, or a tuple of several: floats are random with a fixed seed, integers are zeros.

    Raises:
        ValueError: it is not a shape, or not a number type of torch.

    Example:
        >>> parse_example(["1,3,8,8"]).shape
        torch.Size([1, 3, 8, 8])
    """
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for text in texts:
        shape, _, kind = text.partition(":")
        dtype = getattr(torch, kind or "float32", None)
        if not re.fullmatch(r"\d+(,\d+)*", shape) or not isinstance(dtype, torch.dtype):
            raise ValueError(
                f"--example {text}: write a shape such as 1,3,32,32, or 1,16:int64 for numbers "
                "other than float32"
            )
        sizes = [int(size) for size in shape.split(",")]
        if dtype.is_floating_point:
            tensors.append(torch.randn(sizes, generator=generator).to(dtype))
        else:
            tensors.append(torch.zeros(sizes, dtype=dtype))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def make_groups(model: nn.Module, example: Any, kinds: str, ignore: Sequence[str] = ()) -> Groups:
    """Group a model by one kind or several, comma-separated.

    Raises:
        ValueError: an unknown kind, or one that finds nothing in this model.
    """
    found = None
    for kind in (name.strip() for name in kinds.split(",")):
        if kind not in KINDS:
            raise ValueError(f"--kind {kinds}: unknown kind {kind!r}; known: {', '.join(KINDS)}")
        given = () if kind in NO_EXAMPLE else (example,)
        more = KINDS[kind](model, *given, ignore=list(ignore))
        found = more if found is None else found + more
    assert found is not None  # split gives one word at least
    return found


def parse_importance(text: str) -> str | float:
    """How `Proximal` weighs groups: "auto", "curvature", "layer" or a number."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_interval(text: str) -> dict[str, float | int]:
    """How often to write a checkpoint: "30s", "5m", "1h", or "500" for steps.

    Raises:
        ValueError: neither.

    Example:
        >>> parse_interval("5m"), parse_interval("500")
        ({'seconds': 300.0}, {'steps_between': 500})
    """
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    if found is None or not int(found[1]):
        raise ValueError(
            f"--checkpoint-every {text}: write a time such as 30s, 5m or 1h, or a number of steps"
        )
    if not found[2]:
        return {"steps_between": int(found[1])}
    return {"seconds": float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]}


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read seeds: integers of 0 or more, with commas between them.

    Raises:
        ValueError: something else.

    Example:
        >>> parse_seeds("0,1,2")
        (0, 1, 2)
    """
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"--seeds {text}: write integers with commas between them, such as 0,1,2")
    return tuple(int(part) for part in text.split(","))


def make_optimizer(
    model: nn.Module, name: str, rate: float | None, decay: float | None, momentum: float
) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters; None stands for the usual learning rate and weight decay.

    Raises:
        ValueError: another name.
    """
    if name not in DEFAULTS:
        raise ValueError(f"--optimizer {name}: known are {', '.join(DEFAULTS)}")
    rate = DEFAULTS[name][0] if rate is None else rate
    decay = DEFAULTS[name][1] if decay is None else decay
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), rate, momentum=momentum, weight_decay=decay)
    return torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)
