"""`capture`: a model as a graph with its weights, by torch.export, which all runtimes are fed from.

A model, an example and the sizes that are to stay open flow in; a `Captured` flows out.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_map

from secateur.utils.forward import Example, arguments, device_of


class OpenSizes(dict[int, str]):
    """Dimension -> name of each size of one tensor that is left open; to a tree it is a leaf."""


@dataclasses.dataclass(frozen=True)
class Captured:
    """A network as a graph with its weights.

    Attributes:
        program: what torch.export made of it.
        inputs: the names of its tensors, as the model's signature calls them, in order.
        outputs: the names of what it returns, in order.
        sizes: of every input, the sizes that are open.
    """

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[OpenSizes, ...]


def capture(model: nn.Module, example: Example, sizes: Any = None) -> Captured:
    """Capture a model in eval mode as a graph, on the CPU.

    Args:
        model: any module that torch.export understands, in eval mode. Elsewhere than on the CPU, a
            copy of it is captured.
        example: on the model's device.
        sizes: a tree like `(args, kwargs)` of the example's, with an `OpenSizes` for each tensor.

    Raises:
        Exception: whatever torch.export says.
    """
    device = device_of(model, example)
    args, kwargs = arguments(example)
    if device.type != "cpu":
        model = copy.deepcopy(model).cpu()
        args, kwargs = tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, (args, kwargs))
    if sizes is None:
        sizes = tree_map(lambda leaf: OpenSizes(), (args, kwargs))
    with torch.no_grad(), quiet():
        outputs = _named_leaves(model(*args, **kwargs))
        program = _exported(model, args, kwargs, sizes)
    given = program.example_inputs[1] if program.example_inputs else kwargs
    ordered = tree_leaves((sizes[0], {name: sizes[1][name] for name in given}))
    names = [
        (spec.arg.name, leaf)
        for spec, leaf in zip(_user_inputs(program), ordered, strict=True)
        if isinstance(spec.arg, torch.export.graph_signature.TensorArgument)
    ]
    return Captured(
        program, tuple(name for name, _ in names), outputs, tuple(leaf for _, leaf in names)
    )


def _user_inputs(program: torch.export.ExportedProgram) -> list[Any]:
    kind = torch.export.graph_signature.InputKind.USER_INPUT
    return [spec for spec in program.graph_signature.input_specs if spec.kind is kind]


def _exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: Any
) -> torch.export.ExportedProgram:
    """By tracing; where a size is bound to be a multiple, with such a size; else by Dynamo."""
    shapes = _dynamic_shapes(model, sizes)
    try:
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        if shapes is not None and (refined := _refined(error, shapes)) is not None:
            return torch.export.export(model, args, kwargs, dynamic_shapes=refined, strict=False)
        try:
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=True)
        except Exception:
            raise error from None


def _dynamic_shapes(model: nn.Module, sizes: Any) -> dict[str, Any] | None:
    """Open sizes as torch.export takes them: by the names of the arguments of `forward`."""
    names = {name for leaf in tree_leaves(sizes) for name in leaf.values()}
    if not names:
        return None
    dims = {name: torch.export.Dim(name) for name in names}
    args, kwargs = tree_map(lambda leaf: {k: dims[n] for k, n in leaf.items()} or None, sizes)
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def _refined(error: Exception, shapes: dict[str, Any]) -> Any:
    """The shapes with sizes that torch.export suggests, such as 8 * height; None for constants."""
    try:
        from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes

        refined = refine_dynamic_shapes_from_suggested_fixes(str(error), shapes)
    except Exception:
        return None
    constant = any(type(leaf) is int for leaf in tree_leaves(refined))
    return None if constant or not isinstance(refined, (dict, tuple, list)) else refined


def _named_leaves(outputs: Any) -> tuple[str, ...]:
    """Names of all tensors that a model returns: keys and fields where there are any."""
    _register_dataclasses(outputs)
    found = [(path, leaf) for path, leaf in tree_flatten_with_path(outputs)[0] if leaf is not None]
    names = [re.sub(r"\W+", "_", keystr(path)).strip("_") for path, _ in found]
    if len(found) == 1 and (not names[0] or names[0].isdigit()):
        return ("output",)
    return tuple(f"output_{name}" if name[:1].isdigit() else name for name in names)


def _register_dataclasses(tree: Any) -> None:
    """Dataclasses that a model returns are known to torch from here on as what they are made of."""
    for leaf in tree_leaves(tree):
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            torch.export.register_dataclass(type(leaf))
            _register_dataclasses(leaf)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters print, warn and log while they work, their libraries in C++, too."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def silent() -> Iterator[None]:
    """`quiet`, and whatever is written to the process's own standard output and error."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in kept:
            os.dup2(nowhere, number)
        with quiet(), redirect_stderr(io.StringIO()):
            yield
    finally:
        for number, copy_ in kept:
            os.dup2(copy_, number)
            os.close(copy_)
        os.close(nowhere)


def plain_words(error: BaseException, lines: int = 6) -> str:
    """The first lines of an error, without the codes that colour a terminal.

    Example:
        >>> plain_words(ValueError("\\x1b[31mno such operator\\x1b[0m"))
        'no such operator'
    """
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error)) or type(error).__name__
    kept: Sequence[str] = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(kept[:lines])[:800]
