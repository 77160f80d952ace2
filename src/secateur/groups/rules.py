"""How labels move through an operator: one rule per family of aten operators.

In: one operator call and the labels of its arguments. Out: the labels of its results, new ties, and
what had to be protected. A family that nobody wrote a rule for protects whatever labels it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import flop_registry

from secateur.groups.labels import Labels, Operator, compress, entries, varied


@dataclass
class Call:
    """One operator call, as the dispatcher saw it."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    name: str = field(init=False)
    overload: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.func._schema.name.split("::")[-1]
        self.overload = self.func._overloadname

    def argument(self, name: str) -> Any:
        """The argument called `name` in the operator's schema, given or by default."""
        if name in self.kwargs:
            return self.kwargs[name]
        for position, parameter in enumerate(self.func._schema.arguments):
            if parameter.name == name:
                if position < len(self.args):
                    return self.args[position]
                return parameter.default_value
        raise KeyError(f"{self.name} has no argument {name!r}")

    @property
    def inputs(self) -> list[Tensor]:
        flat, _ = tree_flatten((self.args, self.kwargs))
        return [leaf for leaf in flat if isinstance(leaf, Tensor)]

    @property
    def outputs(self) -> list[Tensor]:
        flat, _ = tree_flatten(self.out)
        return [leaf for leaf in flat if isinstance(leaf, Tensor)]

    def flops(self) -> int:
        count = flop_registry.get(self.func.overloadpacket)
        return 0 if count is None else int(count(*self.args, **self.kwargs, out_val=self.out))


Rule = Callable[[Labels, Call], None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the aten operators `names` (their in-place forms included)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def apply(labels: Labels, call: Call) -> None:
    """Let `labels` follow one operator call."""
    if not any(labels.planes(tensor) for tensor in call.inputs):
        _pass_nothing(labels, call)
    elif torch.Tag.inplace_view in call.func.tags:
        _unknown(labels, call)
    else:
        before = {id(t): (t, labels.planes(t)) for t in call.inputs}
        chosen = RULES.get(call.name) or RULES.get(call.name.removesuffix("_"))
        if chosen is None:
            chosen = _pointwise if torch.Tag.pointwise in call.func.tags else _unknown
        chosen(labels, call)
        _check_aliases(labels, call, before)
    _record_flops_if_missing(labels, call)


def _record_flops_if_missing(labels: Labels, call: Call) -> None:
    """Contractions record their own operator; anything else that costs FLOPs costs a constant."""
    if call.name not in CONTRACTIONS and (flops := call.flops()):
        labels.operators.append(Operator(call.name, flops, ()))


def _is_data(labels: Labels, call: Call) -> bool:
    return any(labels.is_data(tensor) for tensor in call.inputs)


def _pass_nothing(labels: Labels, call: Call) -> None:
    is_data = _is_data(labels, call)
    for out in call.outputs:
        if is_data or not labels.knows(out):
            labels.put(out, [], is_data=is_data)
    if call.name in CONTRACTIONS and (flops := call.flops()):
        labels.operators.append(Operator(call.name, flops, ()))


def _unknown(labels: Labels, call: Call) -> None:
    """Protect everything the operator touches: never wrong, only less."""
    for tensor in call.inputs:
        labels.protect(labels.planes(tensor), f"meets the operator {call.name}, which has no rule")
    labels.unknown[call.name] = labels.unknown.get(call.name, 0) + 1
    is_data = _is_data(labels, call)
    for out in call.outputs:
        labels.put(out, [], is_data=is_data)


def _check_aliases(
    labels: Labels, call: Call, before: dict[int, tuple[Tensor, list[Tensor]]]
) -> None:
    """A write into memory that other labelled tensors share must not change their labels."""
    for position, parameter in enumerate(call.func._schema.arguments):
        if parameter.alias_info is None or not parameter.alias_info.is_write:
            continue
        target = call.args[position] if position < len(call.args) else None
        if not isinstance(target, Tensor):
            continue
        old, new = before[id(target)][1], labels.planes(target)
        if len(old) == len(new) and all(map(torch.equal, old, new)):
            continue
        for other in labels.sharing(target):
            labels.protect([*labels.planes(other), *old, *new], "is written through a view")


# -- pointwise --------------------------------------------------------------------------------------


def _merge(
    labels: Labels,
    out: Tensor,
    parts: Sequence[tuple[Tensor, Sequence[Tensor]]],
    why: str,
    *,
    weights: bool = False,
) -> list[Tensor]:
    """Planes of a result that combines broadcast tensors entry by entry; `parts` are (tensor, planes).

    Planes that vary along common dimensions are tied. A dimension that is labelled in one part and
    has its full size, but no label, in another can't be cut there, so it is protected.
    """
    merged: list[Tensor] = []
    lifted = []
    for tensor, planes in parts:
        pad = out.ndim - tensor.ndim
        shape = (1,) * pad + tuple(tensor.shape)
        lifted.append((shape, [p.reshape((1,) * pad + tuple(p.shape)) for p in planes]))
    for _, planes in lifted:
        for plane in planes:
            for i, other in enumerate(merged):
                if set(varied(plane)) & set(varied(other)):
                    labels.tie(other, plane, weights=weights)
                    if len(varied(plane)) > len(varied(other)):
                        merged[i] = plane
                    break
            else:
                merged.append(plane)
    for shape, planes in lifted:
        own = {dim for plane in planes for dim in varied(plane)}
        full = {dim for dim, size in enumerate(shape) if size > 1}
        for plane in merged:
            if any(dim in full and dim not in own for dim in varied(plane)):
                labels.protect([plane], why)
    return merged


@rule(
    "hardswish", "hardsigmoid", "hardtanh", "_prelu_kernel", "masked_fill", "where", "copy", "clone",
    "_to_copy", "detach", "alias", "lift_fresh", "lift_fresh_copy", "contiguous", "native_dropout",
    "bernoulli", "log_sigmoid_forward", "erfinv", "fill", "zero", "nan_to_num", "threshold", "relu6",
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
)  # fmt: skip
def _pointwise(labels: Labels, call: Call) -> None:
    why = f"is combined by {call.name} with a tensor that no group owns"
    is_data = _is_data(labels, call)
    first = call.outputs[0]
    parts = [(t, labels.planes(t)) for t in call.inputs if t.ndim <= first.ndim]
    planes = _merge(labels, first, parts, why, weights=not is_data)
    for out in call.outputs:
        fits = out.shape == first.shape
        labels.put(out, planes if fits else [], is_data=is_data)


# -- data movement: the operator itself says where each label goes ------------------------------------


def _run_on_plane(call: Call, source: Tensor, plane: Tensor, **overrides: Any) -> list[Tensor]:
    """Run the same operator on the labels instead of the values."""
    names = [parameter.name for parameter in call.func._schema.arguments]
    flat, tree = tree_flatten((call.args, call.kwargs))
    full = plane.expand(source.shape).contiguous()
    for kind in (torch.int64, torch.float64):  # some kernels only take floating point
        swapped = [full.to(kind) if leaf is source else leaf for leaf in flat]
        args, kwargs = tree_unflatten(swapped, tree)
        args = tuple(overrides.get(names[i], arg) for i, arg in enumerate(args))
        try:
            out = call.func(*args, **{k: overrides.get(k, v) for k, v in kwargs.items()})
        except (RuntimeError, NotImplementedError):
            if kind is torch.float64:
                raise
            continue
        return [t.to(torch.int64) for t in tree_flatten(out)[0]]
    raise AssertionError("unreachable")


def _move(labels: Labels, call: Call, source: Tensor, **overrides: Any) -> None:
    results: list[list[Tensor]] = [[] for _ in call.outputs]
    for plane in labels.planes(source):
        for planes, moved in zip(
            results, _run_on_plane(call, source, plane, **overrides), strict=True
        ):
            moved = compress(moved)
            planes.append(moved)
            if len(varied(moved)) > max(1, len(varied(plane))):
                labels.choices.append(moved)
    for out, planes in zip(call.outputs, results, strict=True):
        labels.put(out, _without_overlap(labels, planes), is_data=labels.is_data(source))


def _without_overlap(labels: Labels, planes: list[Tensor]) -> list[Tensor]:
    """Keep one plane per dimension: two axes merged into one can't both be cut."""
    kept: list[Tensor] = []
    for plane in sorted(planes, key=lambda p: -int(p.unique().numel())):
        if any(set(varied(plane)) & set(varied(other)) for other in kept):
            labels.protect([plane], "is merged with another axis")
        else:
            kept.append(plane)
    return kept


@rule(
    "view", "_unsafe_view", "_reshape_alias", "reshape", "permute", "transpose", "t", "numpy_T",
    "expand", "squeeze", "unsqueeze", "repeat", "repeat_interleave", "flip", "roll", "unfold",
    "im2col", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "movedim", "diagonal",
    "view_as_real", "tril", "triu", "rot90",
)  # fmt: skip
def _movement(labels: Labels, call: Call) -> None:
    _move(labels, call, call.args[0])


@rule("constant_pad_nd")
def _pad(labels: Labels, call: Call) -> None:
    _move(labels, call, call.args[0], value=-1)


@rule(
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def _border_pad(labels: Labels, call: Call) -> None:
    _move(labels, call, call.args[0])


@rule("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes", "slice", "unbind",
      "select", "narrow")  # fmt: skip
def _pieces(labels: Labels, call: Call) -> None:
    """Pieces of a labelled axis must lose the same positions; unequal pieces are protected."""
    source = call.args[0]
    dim = call.argument("dim") % max(source.ndim, 1)
    for plane in labels.planes(source):
        if dim not in varied(plane):
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
            if step != 1 or not piece or begin % piece:
                piece = 0
        if not piece or plane.shape[dim] % piece or (piece == 1 and len(varied(plane)) == 1):
            labels.protect([plane], f"is cut by {call.name} at a fixed position")
        else:
            blocks = plane.unflatten(dim, (-1, piece))
            labels.tie(blocks.narrow(dim, 0, 1), blocks)
    _move(labels, call, source)


@rule("index_select", "index", "gather", "take_along_dim", "index_put")
def _indexing(labels: Labels, call: Call) -> None:
    """Indexing moves labels along the dimensions that it leaves alone."""
    source = call.args[0]
    if call.name == "index":
        touched = {dim for dim, index in enumerate(call.args[1]) if index is not None}
    elif call.name == "index_select":
        touched = {call.argument("dim") % source.ndim}
    else:
        _unknown(labels, call)
        return
    for plane in labels.planes(source):
        if touched & set(varied(plane)):
            labels.protect([plane], f"is indexed by {call.name} at fixed positions")
    _move(labels, call, source)


@rule("cat", "concatenate", "stack")
def _join(labels: Labels, call: Call) -> None:
    """Along the joined axis the labels stand one behind the other; along others they are tied."""
    tensors = [t for t in call.args[0] if t.ndim > 1 or t.numel()]  # cat skips an empty vector
    out = call.outputs[0]
    dim = call.argument("dim") % out.ndim
    along: list[Tensor] = []
    parts: list[tuple[Tensor, list[Tensor]]] = []
    for tensor in tensors:
        planes = labels.planes(tensor)
        if call.name == "stack":
            tensor, planes = tensor.unsqueeze(dim), [plane.unsqueeze(dim) for plane in planes]
        mine = [labels.straighten(plane, [dim]) for plane in planes if dim in varied(plane)]
        shape = [tensor.shape[dim] if d == dim else 1 for d in range(out.ndim)]
        along.append(mine[0] if mine else torch.full(shape, -1))
        others = [plane for plane in planes if dim not in varied(plane)]
        parts.append((tensor.narrow(dim, 0, 1), others))
    why = f"is joined by {call.name} with a tensor that no group owns"
    joined = _merge(labels, out, parts, why)
    labels.put(out, [torch.cat(along, dim), *joined], is_data=_is_data(labels, call))


# -- contraction ------------------------------------------------------------------------------------


def _contract(
    labels: Labels,
    call: Call,
    operands: tuple[tuple[Tensor, str], tuple[Tensor, str]],
    out_axes: str,
    role: str,
) -> list[Tensor]:
    """Follow out = sum over the axes that `operands` share and `out_axes` lacks; return its planes.

    Axes are letters, one per dimension, as in einsum. Labels along a contracted axis are tied, the
    others pass on; in a weight, the contracted axis consumes and the other one produces. Labels that
    vary along a batch axis and another one (heads and head size) keep the other one.
    """
    (a, a_axes), (b, b_axes) = operands
    contracted = {letter for letter in a_axes if letter in b_axes and letter not in out_axes}
    batch = set(a_axes) & set(b_axes) & set(out_axes)
    inner: dict[str, list[Tensor]] = {letter: [] for letter in contracted}
    outer: list[tuple[Tensor, list[Tensor]]] = []
    attention = labels.is_data(a) and labels.is_data(b)
    for tensor, axes in operands:
        passing = []
        for plane in labels.planes(tensor):
            if attention:
                labels.mark_role("attention", [plane])
            letters = {axes[dim] for dim in varied(plane)}
            if len(letters) > 1 and letters & batch:
                plane = labels.straighten(plane, [d for d in varied(plane) if axes[d] not in batch])
                letters -= batch
            shared = letters & contracted
            if not letters <= contracted | set(out_axes):
                labels.protect([plane], f"reaches {call.name} along an axis that it slides over")
                labels.mark_role("consumer", [] if labels.is_data(tensor) else [plane])
            elif shared:
                keep = axes.index(min(shared))
                line = labels.straighten(plane, [keep]).reshape(-1)
                inner[axes[keep]].append(line)
                if not labels.is_data(tensor):
                    labels.mark_role("consumer", [line])
            else:
                if not labels.is_data(tensor):
                    labels.mark_role("producer", [plane])
                    labels.mark_role(role, [plane])
                passing.append(_relabel(plane, axes, out_axes))
        outer.append((_ghost(tensor, axes, out_axes), passing))
    for letter, lines in inner.items():
        size = a.shape[a_axes.index(letter)]
        if len(lines) == 2:
            labels.tie(lines[0], lines[1])
        elif size > 1:
            labels.protect(lines, f"is contracted by {call.name} with an axis that no group owns")
    merged = _merge(
        labels, call.outputs[0], outer, f"meets an axis in {call.name} that no group owns"
    )
    factors = [entries(lines[0]) for lines in inner.values() if lines]
    factors += [entries(plane) for plane in merged]
    if flops := call.flops():
        labels.operators.append(Operator(call.name, flops, tuple(factors)))
    return merged


def _relabel(plane: Tensor, axes: str, out_axes: str) -> Tensor:
    """Move a plane from an operand's dimensions to the result's."""
    order = sorted(varied(plane), key=lambda dim: out_axes.index(axes[dim]))
    rest = [dim for dim in range(plane.ndim) if dim not in order]
    line = plane.permute(*rest, *order)
    sizes = {axes[dim]: plane.shape[dim] for dim in order}
    return line.reshape([sizes.get(letter, 1) for letter in out_axes])


def _ghost(tensor: Tensor, axes: str, out_axes: str) -> Tensor:
    """A stand-in with the size that `tensor` has along each of the result's axes (no memory)."""
    sizes = {letter: tensor.shape[dim] for dim, letter in enumerate(axes)}
    return torch.empty([sizes.get(letter, 1) for letter in out_axes], device="meta")


CONTRACTIONS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution"}


@rule("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot")
def _matrix_product(labels: Labels, call: Call) -> None:
    has_bias = call.name in ("addmm", "baddbmm", "addmv")
    a, b = call.args[1:3] if has_bias else call.args[:2]
    a_axes, b_axes, out_axes = {
        "mm": ("ik", "kj", "ij"),
        "bmm": ("nik", "nkj", "nij"),
        "mv": ("ik", "k", "i"),
        "dot": ("k", "k", ""),
    }[call.name.removeprefix("add") if call.name != "baddbmm" else "bmm"]
    is_data = _is_data(labels, call)
    planes = _contract(labels, call, ((a, a_axes), (b, b_axes)), out_axes, "linear")
    out = call.outputs[0]
    if has_bias:
        labels.put(out, planes, is_data=is_data)
        bias = call.args[0]
        why = f"is combined by {call.name} with a bias that no group owns"
        planes = _merge(labels, out, [(out, planes), (bias, labels.planes(bias))], why)
    labels.put(out, planes, is_data=is_data)


@rule("convolution")
def _convolution(labels: Labels, call: Call) -> None:
    x, weight, bias = call.args[:3]
    transposed, groups = call.argument("transposed"), call.argument("groups")
    out = call.outputs[0]
    spatial = "xyz"[: x.ndim - 2]
    if groups == 1:
        kernel = "uvw"[: x.ndim - 2]
        w_axes = ("co" if transposed else "oc") + kernel
        planes = _contract(
            labels, call, ((x, "nc" + spatial.upper()), (weight, w_axes)), "no" + spatial, "filter"
        )
    else:
        planes = _grouped_convolution(labels, call, x, weight, out, groups, transposed)
    if bias is not None:
        is_data = _is_data(labels, call)
        labels.put(out, planes, is_data=is_data)
        shape = [1, -1] + [1] * (out.ndim - 2)
        lifted = [plane.reshape(shape) for plane in labels.planes(bias)]
        why = "has a bias that no group owns"
        planes = _merge(labels, out, [(out, planes), (bias.reshape(shape), lifted)], why)
    labels.put(out, planes, is_data=_is_data(labels, call))


def _grouped_convolution(
    labels: Labels,
    call: Call,
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    groups: int,
    transposed: bool,
) -> list[Tensor]:
    """All inputs and outputs of one group live and die together (depthwise: groups of one)."""
    channel = [1, -1] + [1] * (out.ndim - 2)
    passing = [labels.straighten(p, [1]) for p in labels.planes(x) if 1 in varied(p)]
    labels.protect(
        [p for p in labels.planes(x) if 1 not in varied(p)], f"reaches {call.name} along space"
    )
    rows = [p for p in labels.planes(weight) if varied(p) == (0,)]
    inside = [p for p in labels.planes(weight) if varied(p) != (0,)]
    labels.protect(inside, "lies inside a grouped convolution")
    labels.mark_role("consumer", inside)
    if not (passing and rows):
        labels.protect([*passing, *rows], "is one of the groups of an unlabelled convolution")
        labels.operators.append(Operator(call.name, call.flops(), ()))
        return []
    labels.mark_role("producer", rows)
    into, weights = passing[0].reshape(groups, -1), rows[0].reshape(groups, -1)
    for piece in (into, weights):
        labels.tie(piece[:, :1], piece)
    labels.tie(into[:, :1], weights[:, :1])
    per_group = out.shape[1] // groups
    produced = weights[:, :1].expand(groups, per_group) if transposed else weights
    plane = produced.reshape(channel)
    labels.operators.append(Operator(call.name, call.flops(), (entries(rows[0]),)))
    return [plane]


# -- normalisation ----------------------------------------------------------------------------------


def _along(labels: Labels, x: Tensor, dim: int, vectors: Sequence[Tensor | None]) -> list[Tensor]:
    """Tie axis `dim` of `x` with per-channel vectors; returns the planes of `x` afterwards."""
    shape = [-1 if d == dim else 1 for d in range(x.ndim)]
    parts: list[tuple[Tensor, list[Tensor]]] = [(x, labels.planes(x))]
    for vector in vectors:
        if vector is not None:
            lifted = [plane.reshape(shape) for plane in labels.planes(vector)]
            parts.append((vector.reshape(shape), lifted))
    return _merge(labels, x, parts, "is normalised together with an axis that no group owns")


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm",
)  # fmt: skip
def _batch_norm(labels: Labels, call: Call) -> None:
    x = call.args[0]
    vectors = [arg for arg in call.args[1:5] if isinstance(arg, Tensor)]
    planes = _along(labels, x, 1, vectors)
    is_data = _is_data(labels, call)
    for out in call.outputs:
        labels.put(out, planes if out.shape == x.shape else [], is_data=is_data)


@rule("native_layer_norm", "_fused_rms_norm", "native_group_norm")
def _statistics_norm(labels: Labels, call: Call) -> None:
    x, is_data = call.args[0], _is_data(labels, call)
    if call.name == "native_group_norm":
        groups = call.argument("group")
        planes = _along(labels, x, 1, [call.argument("weight"), call.argument("bias")])
        for plane in planes:
            if varied(plane) == (1,):
                members = plane.reshape(groups, -1)
                labels.tie(members[:, :1], members)
            else:
                labels.mark_inexact([plane], "is normalised with its whole group")
    else:
        depth = len(call.argument("normalized_shape"))
        weight = call.argument("weight")
        bias = call.argument("bias") if call.name == "native_layer_norm" else None
        parts = [(t, labels.planes(t)) for t in (x, weight, bias) if t is not None]
        planes = _merge(labels, x, parts, "is normalised together with an axis no group owns")
        for plane in planes:
            if any(dim >= x.ndim - depth for dim in varied(plane)):
                labels.mark_inexact([plane], f"is mixed by the statistic of {call.name}")
    for out in call.outputs:
        labels.put(out, planes if out.shape == x.shape else [], is_data=is_data)


# -- reductions, pooling, lookups ---------------------------------------------------------------------


@rule("sum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "linalg_vector_norm",
      "norm", "prod", "logsumexp", "any", "all", "argmax", "argmin")  # fmt: skip
def _reduction(labels: Labels, call: Call) -> None:
    """Over an unlabelled axis labels pass; over a labelled one only a sum is exact."""
    x, is_data = call.args[0], _is_data(labels, call)
    names = [parameter.name for parameter in call.func._schema.arguments]
    dims = call.argument("dim") if "dim" in names else None
    keepdim = bool(call.argument("keepdim")) if "keepdim" in names else False
    if len(call.inputs) > 1:  # max(a, b) of two tensors is pointwise
        _pointwise(labels, call)
        return
    dims = list(range(x.ndim)) if dims in (None, []) else dims
    reduced = {dim % x.ndim for dim in ([dims] if isinstance(dims, int) else dims)}
    passing = []
    for plane in labels.planes(x):
        over = set(varied(plane)) & reduced
        if over:
            if call.name != "sum":
                labels.mark_inexact([plane], f"is reduced by {call.name}")
            if len(varied(plane)) > 1:
                labels.protect([plane], f"is reduced by {call.name} along one of its dimensions")
        else:
            passing.append(plane)
    shape = [1 if dim in reduced else size for dim, size in enumerate(x.shape)]
    kept = [size for dim, size in enumerate(shape) if dim not in reduced]
    for out in call.outputs:
        planes = []
        for plane in passing:
            if not keepdim:
                sizes = [s for dim, s in enumerate(plane.shape) if dim not in reduced]
                plane = plane.reshape(sizes)
            planes.append(plane)
        fits = list(out.shape) == (shape if keepdim else kept)
        labels.put(out, planes if fits else [], is_data=is_data)


@rule("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "sort", "topk", "glu")
def _along_axis(labels: Labels, call: Call) -> None:
    """The axis that the operator runs along can't be cut; the others pass."""
    x = call.args[0]
    dim = call.argument("dim") % x.ndim
    passing = []
    for plane in labels.planes(x):
        if dim in varied(plane):
            labels.protect([plane], f"is the axis that {call.name} runs along")
        else:
            passing.append(plane)
    for out in call.outputs:
        labels.put(out, passing, is_data=_is_data(labels, call))


@rule(
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d",
    "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "upsample_linear1d",
    "upsample_trilinear3d",
)  # fmt: skip
def _spatial(labels: Labels, call: Call) -> None:
    """Pooling and resampling work along space and leave the channels alone."""
    x = call.args[0]
    spatial = next(int(c) for c in call.name if c.isdigit())
    passing = []
    for plane in labels.planes(x):
        if max(varied(plane)) < x.ndim - spatial:
            passing.append(plane)
        else:
            labels.protect([plane], f"reaches {call.name} along space")
    for out in call.outputs:
        labels.put(out, passing, is_data=_is_data(labels, call))


@rule("embedding")
def _embedding(labels: Labels, call: Call) -> None:
    weight, index = call.args[:2]
    labels.protect([p for p in labels.planes(weight) if 0 in varied(p)], "is a vocabulary")
    columns = [p for p in labels.planes(weight) if varied(p) == (1,)]
    labels.mark_role("producer", columns)
    shape = [1] * index.ndim + [-1]
    planes = [p.reshape(shape) for p in columns]
    labels.put(call.outputs[0], planes, is_data=True)
