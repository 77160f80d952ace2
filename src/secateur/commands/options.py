"""Options that commands share, made from dataclasses where there is one, and what they stand for.

In: a command's parser; later, what was parsed. Out: options; a dataclass, a model, an example.
"""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from secateur.train.settings import Option, Settings

Form = TypeVar("Form")

DATA_HELP = """\
The data function returns (train_loader, test_loader), or an object with these attributes and,
optionally, loss(output, target) -> scalar tensor and metric(output, target) -> number (defaults:
cross entropy and accuracy). A batch is a tuple (inputs..., target), or a mapping whose entry
"labels" is the target and whose other entries are the model's keyword inputs. The training loader
needs a length. The first row of the first test batch is the example on which FLOPs are counted.
The current folder is importable."""

AMOUNT_HELP = """\
Amounts: a share (flops=25% or flops=0.25), or an absolute number (flops=120M, params=1.5M,
bytes=2MiB, groups=60)."""


# -- dataclasses ----------------------------------------------------------------------------------


def add_fields(
    command: argparse.ArgumentParser,
    form: type[Any],
    *names: str,
    without: tuple[str, ...] = (),
    **changes: Any,
) -> None:
    """Make options of a dataclass's fields, all or those named; changes go to `add_argument`."""
    hints = get_type_hints(form, include_extras=True)
    for field in fields(form):
        if field.name in without or (names and field.name not in names):
            continue
        kind, option = get_args(hints[field.name])
        words = {**_words(kind, option, field.default), **changes}
        command.add_argument(f"--{field.name.replace('_', '-')}", **words)


def _words(kind: Any, option: Option, default: Any) -> dict[str, Any]:
    """A field as `add_argument` takes it."""
    if kind is bool:
        return {"action": "store_true", "help": option.help}
    shown = default not in (MISSING, None, ())
    words = {
        "help": f"{option.help} (default: {default})" if shown else option.help,
        "metavar": option.metavar,
        "required": default is MISSING,
    }
    if kind == tuple[str, ...]:
        return {**words, "nargs": "+", "action": "extend", "default": []}
    (kind,) = set(get_args(kind) or (kind,)) - {NoneType}
    return {**words, "type": kind, "default": None if default is MISSING else default}


def fill(form: type[Form], options: argparse.Namespace, **given: Any) -> Form:
    """A dataclass with what its options, and the values given here, say."""
    names = (field.name for field in fields(form) if field.name not in given)  # pyright: ignore
    found = {name: getattr(options, name) for name in names}
    return form(**given, **{n: tuple(v) if isinstance(v, list) else v for n, v in found.items()})


# -- what several commands need --------------------------------------------------------------------


def add_training(command: argparse.ArgumentParser, *, without: tuple[str, ...] = ()) -> None:
    """What every training needs: its settings, a folder, checkpoints."""
    add_fields(command, Settings, without=without)
    command.add_argument("--out", required=True, metavar="DIR", help="folder for all files")
    command.add_argument(
        "--checkpoint-every", default="5m", metavar="TIME|STEPS", help="30s, 5m (default), 500"
    )
    command.add_argument(
        "--no-export", action="store_true", help="no small.onnx, and no times in ONNX Runtime"
    )


def add_example(command: argparse.ArgumentParser) -> None:
    """The inputs of a model that isn't trained."""
    command.add_argument(
        "--example",
        action="append",
        metavar="SHAPE",
        help="an input's shape: 1,3,32,32, or 1,16:int64; repeat for several inputs",
    )
    words = "instead: first row of test data"
    add_fields(command, Settings, "data", required=False, help=words)


def add_network(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """A model at full size, or the small network that a file makes of it, and its inputs."""
    add_fields(command, Settings, "model", required=required)
    command.add_argument("--weights", metavar="FILE", help="a small network, from secateur.save")
    add_example(command)


def add_device(
    command: argparse.ArgumentParser,
    default: str | None = "cpu",
    words: str = "cpu (default), cuda, ...",
) -> None:
    """Where a command computes, and with how many threads."""
    command.add_argument("--device", default=default, help=words)
    command.add_argument("--threads", type=int, help="of torch")


def set_threads(options: argparse.Namespace) -> None:
    """Do what --threads says, where a command has it."""
    if getattr(options, "threads", None) is not None:
        import torch

        if options.threads < 1:
            raise ValueError(f"--threads {options.threads}: 1 or more")
        torch.set_num_threads(options.threads)


def model(options: argparse.Namespace) -> Any:
    """The model of --model, cut and filled by --weights where given."""
    from secateur.deploy import load
    from secateur.train.spec import make_model

    found = make_model(options.model)
    weights = getattr(options, "weights", None)
    return found if weights is None else load(weights, model=found)


def example(options: argparse.Namespace) -> Any:
    """The inputs of --example or --data.

    Raises:
        ValueError: neither is given, or both.
    """
    from secateur.train.data import Data
    from secateur.train.spec import make_data, parse_example

    if (options.example is None) == (options.data is None):
        raise ValueError(
            "say what the inputs look like: --example 1,3,32,32, or --data MODULE:NAME"
        )
    if options.data is not None:
        return Data.of(make_data(options.data)).example()
    return parse_example(options.example)
