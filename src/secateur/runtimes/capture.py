"""`capture`: a model as a graph with its weights, by torch.export, which all runtimes are fed from.

A model, an example and the sizes that are to stay open flow in; a `Captured` flows out.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
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
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

from secateur.utils.forward import Example, arguments, device_of, forwarding


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
        outputs = model(*args, **kwargs)
        with _plain(model, outputs):
            program = _exported(model, args, kwargs, sizes)
    given = program.example_inputs[1] if program.example_inputs else kwargs
    ordered = tree_leaves((sizes[0], {name: sizes[1][name] for name in given}))
    names = [
        (spec.arg.name, leaf)
        for spec, leaf in zip(user_inputs(program), ordered, strict=True)
        if isinstance(spec.arg, torch.export.graph_signature.TensorArgument)
    ]
    return Captured(
        program,
        inputs=tuple(name for name, _ in names),
        outputs=tuple(named_outputs(outputs)),
        sizes=tuple(leaf for _, leaf in names),
    )


def by_name(network: Captured) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network as a module that takes its tensors as keyword arguments, and the example's."""
    program = network.program
    assert program.example_inputs is not None
    leaves, structure = tree_flatten(program.example_inputs)
    module = program.module()

    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, **tensors: Tensor) -> Any:
            given = iter(tensors.values())
            filled = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            args, kwargs = tree_unflatten(filled, structure)
            return self.module(*args, **kwargs)

    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return ByName(), dict(zip(network.inputs, tensors, strict=True))


def user_inputs(program: torch.export.ExportedProgram) -> list[Any]:
    """What an exported program takes beside its weights, in order."""
    kind = torch.export.graph_signature.InputKind.USER_INPUT
    return [spec for spec in program.graph_signature.input_specs if spec.kind is kind]


def _exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: Any
) -> torch.export.ExportedProgram:
    """By tracing, or else by Dynamo."""
    shapes = _dynamic_shapes(model, sizes)
    try:
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        try:
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=True)
        except Exception:
            raise error from None


def _dynamic_shapes(model: nn.Module, sizes: Any) -> dict[str, Any] | None:
    """Open sizes as torch.export takes them: by the names of the arguments of `forward`.

    Which sizes are equal, or multiples of something, it finds out itself.
    """
    if not any(tree_leaves(sizes)):
        return None
    dynamic = torch.export.Dim.DYNAMIC
    args, kwargs = tree_map(lambda leaf: dict.fromkeys(leaf, dynamic) if leaf else None, sizes)
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """All tensors that a model returned, by the keys and fields that they have there.

    Example:
        >>> list(named_outputs((torch.ones(1), {"scores": torch.ones(2)})))
        ['output_0', 'output_1_scores']
    """
    leaves = tree_flatten_with_path(_without_dataclasses(outputs))[0]
    found = {}
    for path, leaf in leaves:
        if isinstance(leaf, Tensor):
            name = re.sub(r"\W+", "_", keystr(path)).strip("_")
            found[f"output_{name}".strip("_") if not name or name[0].isdigit() else name] = leaf
    return found


def _without_dataclasses(tree: Any) -> Any:
    """A tree with the fields of dataclasses that torch doesn't know as trees."""

    def fields(leaf: Any) -> Any:
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        names = [field.name for field in dataclasses.fields(leaf)]
        return _without_dataclasses({name: getattr(leaf, name) for name in names})

    return tree_map(fields, tree)


@contextmanager
def _plain(model: nn.Module, outputs: Any) -> Iterator[None]:
    """The model returns a dict where it returns objects that a reader of its file may not have."""
    if _is_plain(outputs):
        yield
        return
    forward = model.forward

    @functools.wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return named_outputs(forward(*args, **kwargs))

    with forwarding(model, plain):
        yield


def _is_plain(tree: Any) -> bool:
    if type(tree) in (tuple, list):
        return all(map(_is_plain, tree))
    return all(map(_is_plain, tree.values())) if type(tree) is dict else isinstance(tree, Tensor)


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
