"""What people write on a command line, as what the library takes.

In: words such as "flops=25%", "package.module:function", "1,3,32,32". Out: a `Budget`, a function,
a tensor; or an error that says what to write instead.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import torch
from torch import nn

from secateur import kinds
from secateur.budget import Budget, LatencyTarget
from secateur.costs.measures import MEASURES
from secateur.groups import Groups
from secateur.utils.name_trees import is_inside

THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZES = {"B": 1, **{f"{p}B": n for p, n in THOUSANDS.items() if p}}
SIZES |= {f"{p}iB": 1024 ** (i + 1) for i, p in enumerate("KMGT")} | {"KB": 1000}

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


def parse_budgets(
    texts: Sequence[str],
    *,
    at_least: int = 1,
    multiple_of: int = 1,
    per_layer: bool = False,
    runtime: str | None = None,
    table: str | None = None,
) -> tuple[Budget, ...]:
    """Read a budget, or several for one run: comma-separated MEASURE=AMOUNT.

    Args:
        texts: such as ["flops=25%", "params=1.5M,bytes=2MiB"]: shares or absolute numbers. The same
            measure as a share and as an absolute number is a pair, which must agree. Several
            amounts of a measure, "flops=50%,25%,10%", are budgets of networks one after another;
            a measure with one amount has it in all of them.
        at_least: how many groups stay in every layer.
        multiple_of: of which widths are multiples.
        per_layer: whether all layers keep the same share.
        runtime: in which a latency is measured.
        table: the file of a latency table.

    Raises:
        ValueError: a measure, number or unit that isn't known; it says what to write.

    Example:
        >>> parse_budgets(["flops=25%", "params=1.5M"])
        (Budget(flops=0.25, params=1500000),)
        >>> parse_budgets(["flops=50%,25%"])
        (Budget(flops=0.5), Budget(flops=0.25))
        >>> parse_budgets(["25"])
        Traceback (most recent call last):
        ValueError: --budget 25: 25 of what? write MEASURE=AMOUNT, such as flops=25% or ...
    """
    given = _amounts(texts)
    counts = {measure: len(amounts) for measure, amounts in given.items()}
    most = max(counts.values())
    if any(count not in (1, most) for count in counts.values()):
        words = ", ".join(f"{count} of {measure}" for measure, count in counts.items())
        raise ValueError(
            f"--budget: {words}; give every measure as many amounts as there are networks, or one"
        )
    if (runtime or table) and "latency" not in given:
        raise ValueError("--runtime and --latency-table go with a budget on latency=")
    for targets in given.get("latency", ()):
        targets[:] = [replace(target, runtime=runtime, table=table) for target in targets]
    options = {"at_least": at_least, "multiple_of": multiple_of, "per_layer": per_layer}
    networks = zip(*(each * (most // len(each)) for each in given.values()), strict=True)
    return tuple(
        Budget(**{m: _pair(m, amounts) for m, amounts in zip(given, each, strict=True)}, **options)
        for each in networks
    )


def _amounts(texts: Sequence[str]) -> dict[str, list[list[Any]]]:
    """Measure -> what is asked of one network after another: an amount, or two to be a pair."""
    given: dict[str, list[list[Any]]] = {}
    for words in texts:
        measure = ""  # what an amount alone goes on with
        for text in (part.strip() for part in words.split(",")):
            name, equals, amount = (part.strip() for part in text.partition("="))
            name = name.lower()
            if not equals and (not measure or name in MEASURES):
                raise ValueError(
                    f"--budget {text}: {text} of what? write MEASURE=AMOUNT, such as flops=25% "
                    f"or params=1.5M; measures are {', '.join(MEASURES)}"
                )
            if equals and name not in MEASURES:
                raise ValueError(
                    f"--budget {text}: unknown measure {name!r}; measures are {', '.join(MEASURES)}"
                )
            if not equals:
                given[measure].append([_amount(measure, text, f"{measure}={text}")])
                continue
            measure = name
            given.setdefault(measure, [[]])[-1].append(_amount(measure, amount, text))
    return given


def _amount(measure: str, amount: str, text: str) -> Any:
    """One amount: a fraction as a float, an absolute number as an int, or a target."""
    if measure == "latency":
        return _latency(amount, text)
    units = SIZES if measure in ("bytes", "memory") else THOUSANDS
    example = "2MiB" if units is SIZES else "60" if measure == "groups" else "1.5M"
    hint = f"write a share such as 25% or 0.25, or an absolute number such as {example}"
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(?:e(\d\d?))?\s*(%|[A-Za-z]*)", amount)
    if found is None:
        raise ValueError(f"--budget {text}: can't read {amount!r}; {hint}")
    number = Decimal(found[1]).scaleb(int(found[2] or 0))
    unit = found[3]
    if unit == "%":
        if not 0 < number <= 100:
            raise ValueError(f"--budget {text}: a share lies above 0% and up to 100%; {hint}")
        return float(number / 100)
    if not unit and "." in found[1]:
        if not 0 < number <= 1:
            raise ValueError(f"--budget {text}: a share without % lies in (0, 1]; {hint}")
        return float(number)
    if not unit and measure != "groups" and number <= 100:
        raise ValueError(
            f"--budget {text}: {amount} {measure}, or {amount}%? write {measure}={amount}% for a "
            f"share, or an absolute number such as {example}"
        )
    if unit and unit not in units:
        known = ", ".join(name for name in ("%", *units) if name)
        raise ValueError(f"--budget {text}: unknown unit {unit!r}; known for {measure}: {known}")
    return int(number * units.get(unit, 1))


def _latency(amount: str, text: str) -> LatencyTarget:
    """A fraction, or a time with its unit, such as "3ms"."""
    number = amount.removesuffix("%")
    try:
        share = float(number) / (100 if number != amount else 1)
    except ValueError:
        share = None
    try:
        return LatencyTarget(amount if share is None else share)
    except ValueError as error:
        raise ValueError(
            f"--budget {text}: can't read {amount!r}; write a share such as 50% or 0.5, or a time "
            "with its unit, such as 3ms or 800us"
        ) from error


def _pair(measure: str, given: list[Any]) -> Any:
    """One amount alone, or (share, absolute number)."""
    if len(given) == 1:
        return given[0]
    shares = [amount for amount in given if isinstance(amount, float)]
    numbers = [amount for amount in given if isinstance(amount, int)]
    if len(shares) != 1 or len(numbers) != 1:
        raise ValueError(
            f"--budget: {measure} is given {len(given)} times; give it once, or once as a share "
            "and once as an absolute number"
        )
    return shares[0], numbers[0]


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
