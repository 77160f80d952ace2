"""Operators that move data: the operator itself, run on the labels, says where each one goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from secateur.tracing.labels import Labels, compress, varied
from secateur.tracing.rules.call import Call, rule
from secateur.tracing.rules.pointwise import merge


def _run_on_plane(call: Call, source: Tensor, plane: Tensor) -> list[Tensor]:
    """Run the same operator on the labels instead of the values."""
    flat, tree = tree_flatten((call.args, call.kwargs))
    keeps_sizes = call.name in ("t", "numpy_T", "transpose", "permute", "movedim", "unsqueeze")
    full = plane if keeps_sizes else plane.expand(source.shape).contiguous()
    full = full if source.is_meta else full.to(source.device)  # labels have values, always
    others = [leaf for leaf in flat if isinstance(leaf, Tensor) and leaf is not source]
    if any(leaf.is_meta for leaf in others):
        raise ValueError("where labels go depends on values that are not there")
    full = full + 1  # what the operator fills with zeros becomes "no atom"
    for kind in (torch.int64, torch.float64):  # some kernels only take floating point
        swapped = [full.to(kind) if leaf is source else leaf for leaf in flat]
        args, kwargs = tree_unflatten(swapped, tree)
        try:
            out = call.func(*args, **kwargs)
        except (RuntimeError, NotImplementedError):
            if kind is torch.float64:
                raise
            continue
        return [leaf.to("cpu", torch.int64) - 1 for leaf in tree_flatten(out)[0]]
    raise AssertionError("unreachable")


def _move(
    labels: Labels, call: Call, source: Tensor, planes: Sequence[Tensor] | None = None
) -> None:
    """Let the planes of `source`, or only these, follow the operator."""
    results: list[list[Tensor]] = [[] for _ in call.outputs]
    for plane in labels.planes(source) if planes is None else planes:
        for planes, moved in zip(results, _run_on_plane(call, source, plane), strict=True):
            moved = compress(moved)
            planes.append(moved)
            if len(varied(moved)) > max(1, len(varied(plane))):
                labels.choices.append(moved)
    is_data = labels.is_data(source)
    decided_later = labels.keep == "batch" and not is_data  # by the product that a weight meets
    for out, planes in zip(call.outputs, results, strict=True):
        kept = planes if decided_later else _without_overlap(labels, planes)
        labels.put(out, kept, is_data=is_data)


def _without_overlap(labels: Labels, planes: list[Tensor]) -> list[Tensor]:
    """Keep one plane per dimension: two axes merged into one can't both be cut.

    Heads before others (where all heads share their values), then the one with the most labels.
    """
    kept: list[Tensor] = []
    order = sorted(planes, key=lambda p: (not labels.is_head(p), -int(p.unique().numel())))
    for plane in order:
        merged = [other for other in kept if set(varied(plane)) & set(varied(other))]
        if merged:
            labels.protect([plane], "is merged with another axis")
            labels.mark_role("merged", merged)
        else:
            kept.append(plane)
    return kept


@rule(
    "view", "_unsafe_view", "_reshape_alias", "reshape", "permute", "transpose", "t", "numpy_T",
    "expand", "squeeze", "unsqueeze", "repeat", "flip", "im2col", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "movedim",
)  # fmt: skip
def _movement(labels: Labels, call: Call) -> None:
    _move(labels, call, call.args[0])


@rule("view_as_complex", "view_as_real")
def _pairs(labels: Labels, call: Call) -> None:
    """The last axis is the real and the imaginary part of one number, which stay together."""
    source = call.args[0]
    planes = labels.planes(source)
    if call.name == "view_as_real":
        moved = [plane.unsqueeze(-1) for plane in planes]
    else:
        last = source.ndim - 1
        others = [[dim for dim in varied(plane) if dim != last] for plane in planes]
        straight = map(labels.straighten, planes, others)
        moved = [plane.squeeze(-1) for plane in straight]
    labels.put(call.outputs[0], moved, is_data=labels.is_data(source))


@rule("as_strided_")
def _laid_out_anew(labels: Labels, call: Call) -> None:
    """Labels stay where only the order in memory changes."""
    source = call.args[0]
    if any(plane.ndim != source.ndim for plane in labels.planes(source)):
        raise ValueError("the tensor got another shape")
    out = call.outputs[0]
    labels.put(out, labels.planes(source), is_data=labels.is_data(source))


@rule(
    "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def _pad(labels: Labels, call: Call) -> None:
    """Constants may stand beside a labelled axis; borders that repeat or crop it may not.

    What is padded along other axes keeps its labels: a border belongs to its channel.
    """
    source = call.args[0]
    widths = list(call.argument("pad" if call.has("pad") else "padding"))
    passing = []
    for plane in labels.planes(source):
        along = varied(plane)
        mine = [
            width if source.ndim - 1 - position // 2 in along else 0
            for position, width in enumerate(widths)
        ]
        if min(mine) < 0 or (any(mine) and call.name != "constant_pad_nd"):
            labels.protect([plane], f"is cut or repeated by {call.name}")
        else:
            passing.append(F.pad(plane, mine, value=-1) if any(mine) else plane)
    labels.put(call.outputs[0], passing, is_data=labels.is_data(source))


@rule("transpose_", "t_", "swapaxes_", "swapdims_", "unsqueeze_", "squeeze_", "detach_")
def _turned_in_place(labels: Labels, call: Call) -> None:
    """The tensor itself changes its shape; its labels follow, as for the copying operator."""
    source = call.args[0]
    planes = [call.func(plane.clone(), *call.args[1:]) for plane in labels.planes(source)]
    if any(plane.ndim != source.ndim for plane in planes):
        raise ValueError("a plane lost a dimension that its tensor keeps")
    labels.put(source, planes, is_data=labels.is_data(source))


@rule("roll", "unfold", "diagonal", "tril", "triu", "rot90")
def _fixed_positions(labels: Labels, call: Call) -> None:
    """What these do depends on positions, so an axis that they touch can't be cut."""
    source = call.args[0]
    if call.name == "roll" and call.argument("dims"):
        touched = {dim % source.ndim for dim in call.argument("dims")}
    elif call.name == "unfold":
        touched = {call.argument("dimension") % source.ndim}
    elif call.name in ("tril", "triu"):
        touched = {source.ndim - 2, source.ndim - 1}
    else:
        touched = set(range(source.ndim))
    for plane in labels.planes(source):
        if touched & set(varied(plane)):
            labels.protect([plane], f"is moved by {call.name} between fixed positions")
    _move(labels, call, source)


@rule("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes", "slice", "unbind",
      "select", "narrow")  # fmt: skip
def _pieces(labels: Labels, call: Call) -> None:
    """Pieces of a labelled axis must lose the same positions; unequal pieces are protected."""
    source = call.args[0]
    dim = call.argument("dim") % max(source.ndim, 1)
    for plane in labels.planes(source):
        if dim not in varied(plane) or _cuts_between_heads(labels, call, plane, dim):
            continue
        if call.name in ("unbind", "select"):
            starts = {plane.shape[dim]: 1}
        else:
            sizes = [out.shape[dim] for out in call.outputs]
            starts = {plane.shape[dim]: sizes[0]} if len(set(sizes)) == 1 else {}
        piece = starts.get(plane.shape[dim], 0)
        if call.name == "slice":
            begin, step = call.argument("start") or 0, call.argument("step") or 1
            begin = begin + plane.shape[dim] if begin < 0 else begin
            if piece == plane.shape[dim] and step == 1:
                continue
            found = plane.narrow(dim, begin, call.outputs[0].shape[dim]) if step == 1 else plane
            if not bool((found >= 0).any()):
                continue  # a part of a buffer that is still to be written
            if step != 1 or not piece or begin % piece:
                piece = 0
        if not piece or plane.shape[dim] % piece or (piece == 1 and len(varied(plane)) == 1):
            labels.protect([plane], f"is cut by {call.name} at a fixed position")
        else:
            blocks = plane.unflatten(dim, (-1, piece))
            labels.tie(blocks.narrow(dim, 0, 1), blocks)
    _move(labels, call, source)


def _cuts_between_heads(labels: Labels, call: Call, plane: Tensor, dim: int) -> bool:
    """Whether heads stand behind one another along `dim`, and no cut goes through one.

    Then the sizes of the pieces can follow the heads (queries, keys and values in one layer).
    """
    if varied(plane) != (dim,) or not labels.holds_heads(plane):
        return False
    line = plane.reshape(-1)
    if call.name == "slice":
        bounds = slice(call.argument("start"), call.argument("end"), call.argument("step"))
        begin, end, step = bounds.indices(len(line))
        if step != 1:
            return False
        cuts = [begin, end]
    elif call.name in ("unbind", "select"):
        return False
    else:
        cuts = torch.tensor([out.shape[dim] for out in call.outputs]).cumsum(0).tolist()
    return all(line[cut - 1] != line[cut] for cut in cuts if 0 < cut < len(line))


@rule("index_select", "index")
def _indexing(labels: Labels, call: Call) -> None:
    """Indexing moves labels along the dimensions that it leaves alone."""
    source = call.args[0]
    if call.name == "index_select":
        indices, touched = [call.args[2]], {call.argument("dim") % source.ndim}
    else:
        indices, touched, dim = [], set(), 0
        for index in call.args[1]:
            width = index.ndim if index is not None and index.dtype == torch.bool else 1
            if index is not None:
                indices.append(index)
                touched |= set(range(dim, dim + width))
            dim += width
    for index in indices:
        labels.protect(labels.planes(index), f"chooses what {call.name} reads")
    by_data = labels.any_data(indices)  # then what stands where is another label each time
    passing = []
    for plane in labels.planes(source):
        if touched & set(varied(plane)):
            labels.protect([plane], f"is indexed by {call.name} at fixed positions")
        if not (by_data and touched & set(varied(plane))):
            passing.append(plane)
    _move(labels, call, source, passing)


@rule("index_put", "_index_put_impl")
def _put(labels: Labels, call: Call) -> None:
    """Positions that are written to are fixed; along the axes behind them both run in step."""
    source, indices, values = call.args[:3]
    if any(index is None for index in indices):
        raise ValueError("only positions of the first axes are followed")
    first = sum(index.ndim if index.dtype == torch.bool else 1 for index in indices)
    for index in indices:
        labels.protect(labels.planes(index), "says where index_put writes")
    why = "is combined by index_put with a tensor that no group owns"
    parts: list[tuple[Tensor, list[Tensor]]] = []
    for tensor, fixed in ((source, first), (values, values.ndim - (source.ndim - first))):
        fixed = max(fixed, 0)
        passing = []
        for plane in labels.planes(tensor):
            if any(dim < fixed for dim in varied(plane)):
                labels.protect([plane], "is written by index_put at fixed positions")
            else:
                passing.append(plane.reshape(plane.shape[fixed:]))
        parts.append((tensor[(0,) * fixed] if tensor.numel() else tensor.sum(), passing))
    merged = merge(labels, source[(0,) * first], parts, why)
    shape = (1,) * first
    planes = [plane.reshape(shape + tuple(plane.shape)) for plane in merged]
    labels.put(call.outputs[0], planes, is_data=labels.any_data(call.inputs))


@rule("gather", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy")
def _addressing(labels: Labels, call: Call) -> None:
    """Along the addressed axis positions are fixed; along the others all operands run in step."""
    source, out = call.args[0], call.outputs[0]
    dim = call.argument("dim") % max(source.ndim, 1)
    given = call.argument("index")
    labels.protect(labels.planes(given), f"says where {call.name} reads or writes")
    parts: list[tuple[Tensor, list[Tensor]]] = []
    for tensor in call.inputs:
        if tensor is given:
            continue
        planes = labels.planes(tensor)
        labels.protect(
            [plane for plane in planes if dim in varied(plane)],
            f"is addressed by {call.name} at fixed positions",
        )
        passing = [plane for plane in planes if dim not in varied(plane)]
        parts.append((tensor.narrow(dim, 0, 1), passing))
    shapes = {tuple(tensor.shape) for tensor, _ in parts} | {tuple(out.narrow(dim, 0, 1).shape)}
    if len(shapes) > 1:  # an index that leaves out a part of another axis
        raise ValueError("the operands do not run in step")
    why = f"is combined by {call.name} with a tensor that no group owns"
    labels.put(out, merge(labels, out, parts, why), is_data=labels.any_data(call.inputs))


@rule("cat", "concatenate", "stack")
def _join(labels: Labels, call: Call) -> None:
    """Along the joined axis the labels stand one behind the other; along others they are tied."""
    tensors = [t for t in call.args[0] if t.numel()] or list(call.args[0][:1])
    out = call.outputs[0]
    dim = call.argument("dim") % out.ndim
    along: list[Tensor] = []
    parts: list[tuple[Tensor, list[Tensor]]] = []
    for tensor in tensors:
        planes = labels.planes(tensor)
        if call.name == "stack":
            tensor, planes = tensor.unsqueeze(dim), [plane.unsqueeze(dim) for plane in planes]
        mine = [plane for plane in planes if dim in varied(plane)]
        shape = [tensor.shape[dim] if d == dim else 1 for d in range(out.ndim)]
        along.append(mine[0] if mine else torch.full(shape, -1))
        others = [plane for plane in planes if dim not in varied(plane)]
        parts.append((tensor.narrow(dim, 0, 1), others))
    why = f"is joined by {call.name} with a tensor that no group owns"
    joined = merge(labels, out, parts, why)
    line = _one_behind_the_other(along, dim)
    if len(varied(line)) > 1:
        labels.choices.append(line)
    labels.put(out, [line, *joined], is_data=labels.any_data(call.inputs))


def _one_behind_the_other(planes: list[Tensor], dim: int) -> Tensor:
    """Planes joined along `dim`; they may vary along other dimensions too (heads and head size)."""
    widest = [max(sizes) for sizes in zip(*(plane.shape for plane in planes), strict=True)]
    sizes = [[*widest[:dim], plane.shape[dim], *widest[dim + 1 :]] for plane in planes]
    return torch.cat([p.expand(size) for p, size in zip(planes, sizes, strict=True)], dim)
