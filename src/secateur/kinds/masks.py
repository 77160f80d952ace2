"""Kinds that leave zeros in place: blocks, n of m, single weights. No tracing is needed.

In: a model. Out: groups of elements of its weight matrices; nothing is cut out for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.groups.elementwise import Elements
from secateur.groups.groups import Groups
from secateur.groups.layer import Layer
from secateur.groups.member import Member
from secateur.kinds.build import Ignore, ignored_names, why_ignored
from secateur.tracing.model_checks import check_model
from secateur.utils.name_trees import reasons

Refused = list[tuple[str, int, str]]


def zeros_in_place(
    model: nn.Module,
    ignore: Any,
    *,
    kind: str,
    member: Callable[[str, nn.Parameter, int], Member | str | None],
    blocks: tuple[int, int] | None = None,
) -> Groups:
    """Groups of a kind that leaves zeros in weights of two or more dimensions.

    Args:
        model: any module; it is not run.
        ignore: names, modules or module types whose weights stay as they are.
        kind: the name of the kind.
        member: (name, weight, first group) -> the part of the groups that lies in this weight, or
            why the weight can't be grouped; None where the kind is not about such weights.
        blocks: (n, m) where n of every m consecutive groups stay.

    Raises:
        ValueError: an unknown name in `ignore`, or no weight can be grouped (the reasons are
            listed).
    """
    model = check_model(model)
    ignored = ignored_names(model, ignore)
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    members, layers, start = [], [], 0
    refused: Refused = []
    for weight, known_as in names.items():
        if weight.ndim < 2:
            continue
        name = known_as[0]
        found = _reason(weight, known_as, ignored) or member(name, weight, start)
        if found is None:
            continue
        if isinstance(found, str):
            refused.append((name, weight.numel(), found))
            continue
        owner = name.removesuffix(".weight")
        layers.append(Layer(owner, kind, start, found.stop, (name,), blocks=blocks))
        members.append(found)
        start = found.stop
    if not members:
        lines = [f"{type(model).__name__} has no weight whose {kind} can be grouped"]
        raise ValueError("\n".join([*lines, *reasons(refused)]))
    return Groups(tuple(members), tuple(layers), None, tuple(refused), model=model)


def _reason(weight: nn.Parameter, names: list[str], ignored: dict[str, str]) -> str:
    """Why a weight can't be grouped, or ""."""
    for name in names:
        if reason := why_ignored(name, ignored):
            return reason
        if ".parametrizations." in f".{name}":
            return "another weight is computed from it, in which its zeros may not be zeros"
    if not weight.requires_grad:
        return "it is frozen (requires_grad=False)"
    if not weight.is_floating_point():
        return f"it holds {weight.dtype}, not floating point numbers"
    return "" if weight.numel() else "it is empty"


def blocks(
    model: nn.Module,
    shape: tuple[int, int] = (4, 4),
    *,
    ignore: Ignore | str | nn.Module | type[nn.Module] = (),
) -> Groups:
    """Group each weight matrix into rectangles of one shape.

    A group is a tile of `shape` = (rows, columns) of a matrix; weights of more dimensions are seen
    as (first dimension, all others), a convolution as (out, in x kernel). It is dead when all of
    its elements are zero. Nothing is removed: training ends with exactly the budgeted number of
    tiles and zeros elsewhere, and `shrink` returns an equal copy and says so. Where a size does not
    divide, the rows or columns after the last whole tile are in no group and stay.

    Args:
        model: any module; it is not run.
        shape: rows and columns of a tile, integers of 1 or more.
        ignore: names, modules or module types whose weights stay as they are.

    Returns:
        One group a tile, row by row, one layer a parameter.

    Raises:
        ValueError: a bad shape, an unknown name in `ignore`, or no matrix holds a whole tile.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10))
        >>> groups = blocks(model, (4, 4))
        >>> groups  # two of the last layer's ten rows are in no tile
        Groups(12: 0 6, 2 6)
    """
    if len(shape) != 2 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"blocks: shape={shape}: expected (rows, columns), integers of 1 or more")

    def member(name: str, weight: nn.Parameter, start: int) -> Member | str:
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        down, across = rows // shape[0], columns // shape[1]
        if not down or not across:
            return f"its {rows} x {columns} elements hold no whole tile of {shape[0]} x {shape[1]}"
        tiles = torch.arange(start, start + down * across, device="cpu")
        if (down * shape[0], across * shape[1]) == (rows, columns):
            tiles, seen_as = tiles.view(down, 1, across, 1), (down, shape[0], across, shape[1])
            return Member(name, weight, tiles, seen_as)
        ids = torch.full((rows, columns), -1, device="cpu")
        covered = ids[: down * shape[0], : across * shape[1]]
        covered.unflatten(1, (across, -1)).unflatten(0, (down, -1)).copy_(
            tiles.view(down, 1, across, 1)
        )
        return Member(name, weight, ids, (rows, columns))

    return zeros_in_place(model, ignore, kind="blocks", member=member)


def n_of_m(
    model: nn.Module,
    n: int = 2,
    m: int = 4,
    *,
    ignore: Ignore | str | nn.Module | type[nn.Module] = (),
) -> Groups:
    """Keep n of every m consecutive inputs of every weight row.

    A group is one element of a weight, and m groups that read m consecutive inputs for the same
    output (and the same position of a kernel) form a block, which keeps exactly n. Inputs run along
    the second dimension, as in linear layers and convolutions; along the first in transposed
    convolutions and in transformers' Conv1D; in stacked matrices of experts along the dimension
    that their module says. Nothing is removed: training ends with n elements in every block and
    zeros elsewhere, and `shrink` returns an equal copy and says so. Where the inputs are no
    multiple of m, the last ones are in no group and stay; embeddings are left alone.

    The kind carries the level, so the budget repeats it and is checked: `Budget(groups=n / m)`. In
    a sum with other kinds, the budget is theirs: what it counts in groups includes the n of every
    m, and FLOPs, parameters or bytes don't see them.

    Args:
        model: any module; it is not run.
        n: how many stay, 1 to m - 1.
        m: of how many consecutive inputs.
        ignore: names, modules or module types whose weights stay as they are.

    Returns:
        One group an element, block after block, one layer a parameter.

    Raises:
        ValueError: n is not in 1 to m - 1, an unknown name in `ignore`, or no weight has m inputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> groups = n_of_m(model, 2, 4)
        >>> print(groups)  # the second layer has fewer than 4 inputs
        Groups(24: 0 24)
    """
    if not (isinstance(n, int) and isinstance(m, int) and 1 <= n < m):
        raise ValueError(f"n_of_m(n={n!r}, m={m!r}): expected integers with 1 <= n < m")
    owners = dict(model.named_modules())

    def member(name: str, weight: nn.Parameter, start: int) -> Member | str:
        owner = owners[name.rpartition(".")[0]]
        if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
            return "an embedding has no inputs"
        dim = _input_dim(owner, weight)
        inputs = weight.shape[dim]
        if inputs < m:
            return f"it has {inputs} inputs, fewer than {m}"
        return Elements(name, weight, start, dim, inputs // m * m)

    return zeros_in_place(model, ignore, kind=f"{n}_of_{m}", member=member, blocks=(n, m))


def _input_dim(owner: nn.Module, weight: nn.Parameter) -> int:
    """The dimension of a module's weight along which its inputs run."""
    if isinstance(owner, _ConvTransposeNd):
        return 0
    if tuple(weight.shape) == (getattr(owner, "nx", None), getattr(owner, "nf", None)):
        return 0  # transformers' Conv1D stores (in, out), and these two sizes beside it
    if weight.ndim == 3 and getattr(owner, "is_transposed", None) is False:
        return 2  # transformers' stacked experts, each stored (out, in)
    return 1


def weights(model: nn.Module, *, ignore: Ignore | str | nn.Module | type[nn.Module] = ()) -> Groups:
    """Group nothing: every element of every weight stands alone.

    A group is one element of a parameter of two or more dimensions; biases and norms are free. It
    is dead when the element is zero. Nothing is removed: training ends with exactly the budgeted
    number of elements and zeros elsewhere, and `shrink` returns an equal copy and says so. A budget
    counts elements: `Budget(groups=0.1)`. Numbers and names of groups are made when they are read,
    so a million groups are no burden.

    Args:
        model: any module; it is not run.
        ignore: names, modules or module types whose weights stay as they are.

    Returns:
        One group an element, one layer a parameter.

    Raises:
        ValueError: an unknown name in `ignore`, or the model has no such weight.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> groups = weights(model, ignore="2")
        >>> groups, groups.names[23]
        (Groups(24: 0 24), '0[23]')
    """
    return zeros_in_place(
        model,
        ignore,
        kind="weights",
        member=lambda name, weight, start: Elements(name, weight, start),
    )
