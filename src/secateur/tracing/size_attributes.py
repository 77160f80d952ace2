"""Sizes that modules keep as attributes, found while the model runs, by value and by meaning.

In: one operator that takes a size (a split, a view, new zeros) and where in the model it was
called. Out: which attribute that code read the size from, and the labels along the axis that has
it. In `x.split((self.half, self.half), 1)` it is `half`, and it must follow when x shrinks.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves

from secateur.tracing.labels import Labels, varied
from secateur.tracing.rules.call import Call

TAKE_SIZES = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "split", "unsafe_split",
    "split_with_sizes", "unsafe_split_with_sizes", "slice", "zeros", "new_zeros",
}  # fmt: skip

NORMALISE = {
    "native_group_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
    "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update",
}  # fmt: skip

ASK_FOR_SIZES = re.compile(
    r"\b(view|reshape|expand|unflatten|split|split_with_sizes|tensor_split|new_zeros|zeros)\b"
)
NUMBERS = ("layer_idx", "layer_id", "layer_number", "layer_index", "block_idx")  # no sizes
LIBRARIES = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)))


@dataclass(frozen=True)
class Sized:
    """An attribute that holds the size of an axis.

    Attributes:
        module, attribute: where it is.
        atoms: the atoms at each index of the axis, shape (size, any).
        written: whether the line that asks for the size names the attribute, or a variable with it.
    """

    module: str
    attribute: str
    atoms: np.ndarray
    written: bool = True


def sizes_read(names: dict[int, str], labels: Labels, call: Call) -> Iterator[Sized]:
    """The attributes that may have given `call` the sizes of its labelled axes.

    An attribute counts if it has the value, the code that runs between the module's call and the
    operator mentions it, and the line that runs asks for sizes. `names` maps id(module) to the
    module's name.
    """
    if call.name in NORMALISE:
        yield from _sizes_of_norms(names, labels, call)
    if call.name not in TAKE_SIZES or not (axes := list(_labelled_axes(labels, call))):
        return
    module, mentioned, line, variables = _running()
    if module is None or _is_torch_s_own(module):
        return
    if call.name != "slice" and not ASK_FOR_SIZES.search(line):
        return  # a product of matrices reshapes its operands, too
    words = set(re.findall(r"\w+", line))
    numbers = {n for word in words for n in _integers(variables.get(word))}
    for holder in _read_by(module, mentioned):
        name = names.get(id(holder))
        for attribute, value in vars(holder).items():
            is_size = type(value) is int and attribute not in NUMBERS
            if name is not None and is_size and attribute in mentioned:
                written = attribute in words or value in numbers
                yield from (Sized(name, attribute, x, written) for x in axes if len(x) == value)


def _sizes_of_norms(names: dict[int, str], labels: Labels, call: Call) -> Iterator[Sized]:
    """Of a normalisation that has no tensors of its own, from which its sizes could be told."""
    module = _running()[0]
    name = names.get(id(module))
    is_norm = isinstance(module, (nn.GroupNorm, _NormBase))
    if name is None or not is_norm or any(True for _ in [*module.parameters(), *module.buffers()]):
        return
    attribute = "num_channels" if isinstance(module, nn.GroupNorm) else "num_features"
    size = getattr(module, attribute)
    for plane in labels.planes(call.args[0]):
        for dim in varied(plane):
            atoms = plane.movedim(dim, 0).reshape(plane.shape[dim], -1).numpy()
            if len(atoms) % size == 0:  # InstanceNorm puts the rows of a batch side by side
                yield Sized(name, attribute, atoms[:size])
                if isinstance(module, nn.GroupNorm):
                    yield Sized(name, "num_groups", atoms[:size].reshape(module.num_groups, -1))


def _read_by(module: nn.Module, mentioned: set[str]) -> Iterator[nn.Module]:
    """The module that runs, and those of its own that its code mentions (self.cell.width)."""
    yield module
    for name, child in module.named_children():
        if name in mentioned and not _is_torch_s_own(child):
            yield child


def _integers(value: Any) -> tuple[int, ...]:
    """A variable that is a size, or several."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(item for item in values if type(item) is int)


def _labelled_axes(labels: Labels, call: Call) -> Iterator[np.ndarray]:
    """Axes of the results whose size was given as a number."""
    given = {leaf for leaf in tree_leaves((call.args[1:], call.kwargs)) if type(leaf) is int}
    if call.name in ("zeros", "new_zeros"):
        given = set(call.outputs[0].shape)
    along = None  # a cut gives the size of one dimension
    if "split" in call.name or call.name == "slice":
        along = call.argument("dim") % call.args[0].ndim
    for out in call.outputs:
        for plane in labels.planes(out):
            for dim in varied(plane):
                if along not in (None, dim):
                    continue
                size = out.shape[dim]
                is_cut = call.name == "slice" and size != call.args[0].shape[dim]
                if size in given or is_cut:
                    yield plane.movedim(dim, 0).reshape(size, -1).numpy()


def _running() -> tuple[nn.Module | None, set[str], str, dict[str, Any]]:
    """The innermost module that is being called, the names in its code, the line it is at, and the
    variables there.
    """
    mentioned: set[str] = set()
    line, variables = "", {}
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_call_impl":
            module = frame.f_locals.get("self")
            found = module if isinstance(module, nn.Module) else None
            return found, mentioned, line, variables
        if not frame.f_code.co_filename.startswith(LIBRARIES):
            mentioned.update(frame.f_code.co_names)
            if not line:
                line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
                variables = frame.f_locals
        frame = frame.f_back
    return None, mentioned, line, variables


def _is_torch_s_own(module: nn.Module) -> bool:
    """Their sizes are known by class (removal.py)."""
    return type(module).__module__.startswith("torch.nn.") or isinstance(
        module, nn.MultiheadAttention
    )


def groups_along(sizes: tuple[Sized, ...], lookup: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """For each attribute, the group of every index of its axis (-1: none), shape (size,).

    An attribute that is the size of several axes that shrink differently is left as it is, unless
    only one of them asks for it in so many words: the trial removal then says whether that works.
    """
    found: dict[tuple[str, str], np.ndarray | None] = {}
    written = {(item.module, item.attribute) for item in sizes if item.written}
    for item in sizes:
        if not item.written and (item.module, item.attribute) in written:
            continue
        groups = lookup[item.atoms]
        line = np.where((groups == groups[:, :1]).all(1), groups[:, 0], -1)
        key = (item.module, item.attribute)
        before = found.get(key, line)
        found[key] = line if before is not None and np.array_equal(before, line) else None
    return {key: line for key, line in found.items() if line is not None and (line >= 0).any()}
