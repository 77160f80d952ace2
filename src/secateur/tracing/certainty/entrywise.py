"""How certainty moves through operators that work entry by entry, move or look up entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from secateur.tracing.certainty.facts import (
    Fact,
    Facts,
    Operand,
    any_along,
    any_of,
    lifted,
    most,
    rule,
)

# -- entry by entry --------------------------------------------------------------------------------


@rule(
    "hardswish", "hardsigmoid", "hardtanh", "_prelu_kernel", "detach", "alias", "lift_fresh",
    "lift_fresh_copy", "log_sigmoid_forward", "nan_to_num", "threshold", "relu6", "polar",
    "complex", "_conj", "_conj_physical", "_neg_view", "resolve_conj", "resolve_neg", "real",
    "imag", "_to_copy", "clone", "contiguous", "celu", "selu",
)  # fmt: skip
def pointwise(facts: Facts) -> Sequence[Fact | None]:
    unknown = any_of(x.unknown for x in facts.operands)
    numbers = any(
        isinstance(x, (int, float)) and not isinstance(x, bool)
        for x in tree_leaves((facts.call.args, facts.call.kwargs))
    )
    if facts.asked and numbers:  # a number that may come from the inputs
        unknown = any_of([unknown, *(x.full for x in facts.operands if not x.fact.pure)])
    fact = facts.make(unknown, most(x.groups for x in facts.operands))
    return [fact] * max(1, len(facts.call.func._schema.returns))


def _product(a: Operand, b: Operand) -> Tensor:
    """Where a product depends on more than the parameters: nothing does that meets a zero."""
    return any_of([a.unknown, b.unknown]) & ~any_of([a.zero, b.zero])


@rule("mul", "bitwise_and", "logical_and")
def _mul(facts: Facts) -> Sequence[Fact | None]:
    if len(facts.operands) != 2:
        return pointwise(facts)
    a, b = facts.operands
    return [facts.make(_product(a, b), most([a.groups, b.groups]))]


@rule("div")
def _div(facts: Facts) -> Sequence[Fact | None]:
    if len(facts.operands) != 2 or not isinstance(facts.call.args[0], Tensor):
        return pointwise(facts)
    a, b = facts.operands
    unknown = any_of([a.unknown, b.unknown]) & ~any_of([a.zero, torch.zeros_like(b.zero)])
    return [facts.make(unknown, most([a.groups, b.groups]))]


@rule("addcmul", "addcdiv")
def _add_product(facts: Facts) -> Sequence[Fact | None]:
    base, a, b = (facts.of[id(t)] for t in facts.call.args[:3])
    product = _product(a, b)
    if facts.call.name.startswith("addcdiv"):
        product = any_of([a.unknown, b.unknown]) & ~any_of([a.zero, torch.zeros_like(b.zero)])
    unknown = any_of([base.unknown, product])
    return [facts.make(unknown, most([base.groups, a.groups, b.groups]))]


@rule("where", "masked_fill")
def _choice(facts: Facts) -> Sequence[Fact | None]:
    """Certain where the choice is and what is chosen, or where both choices are the same."""
    if facts.call.name.startswith("masked_fill"):
        first, condition = facts.call.args[:2]
        value = facts.call.args[2]
        sides = [value, first]
    else:
        condition, *sides = facts.call.args
        if len(sides) != 2:
            return ()
    chooses = facts.of[id(condition)]
    values, unknown = [], []
    for side in sides:
        operand = facts.of.get(id(side)) if isinstance(side, Tensor) else None
        values.append(operand.tensor if operand else torch.as_tensor(side, device=condition.device))
        unknown.append(operand.unknown if operand else torch.zeros_like(chooses.unknown))
    yes, no = unknown
    either = any_of([yes, no])
    same = (values[0] == values[1]) & ~either
    picked = torch.where(condition, *lifted([yes, no]))
    return [
        facts.make(
            any_of([chooses.unknown & ~same, either & ~same]) & any_of([chooses.unknown, picked]),
            most(x.groups for x in facts.operands if x is not chooses),
        )
    ]


@rule("glu")
def _glu(facts: Facts) -> Sequence[Fact | None]:
    x = facts.operands[0]
    dim = facts.call.argument("dim") % x.tensor.ndim
    shape = list(x.tensor.shape)

    def halves(mask: Tensor) -> tuple[Tensor, ...]:
        return mask.expand(
            [n if d == dim else m for d, (n, m) in enumerate(zip(shape, mask.shape, strict=True))]
        ).chunk(2, dim)

    (a, b), (zero, _) = halves(x.unknown), halves(x.zero)
    first, second = halves(x.groups)
    return [facts.make((a | b) & ~zero, torch.maximum(first, second))]


@rule("copy")
def _copy(facts: Facts) -> Sequence[Fact | None]:
    target, source = facts.operands[:2]
    _, unknown = lifted([target.unknown, source.unknown])
    _, groups = lifted([target.groups, source.groups])
    return [facts.make(unknown, groups, pure=target.fact.pure and source.fact.pure)]


@rule("zero", "zeros_like", "fill")
def _fill(facts: Facts) -> Sequence[Fact | None]:
    x = facts.operands[0]
    unknown = torch.zeros_like(x.unknown)
    for value in facts.operands[1:]:
        unknown = any_of([unknown, value.unknown])
    return [facts.make(unknown, x.groups)]


@rule("ones_like", "full_like")
def _like(facts: Facts) -> Sequence[Fact | None]:
    x = facts.operands[0]
    none = torch.full_like(x.groups, -1)
    value = not facts.asked or facts.call.name == "ones_like"
    return [facts.make(torch.full_like(x.unknown, not value), none)]


@rule("zeros", "new_zeros", "ones", "new_ones", "arange", "eye", "full", "new_full", "linspace",
       "scalar_tensor")  # fmt: skip
def _made(facts: Facts) -> Sequence[Fact | None]:
    """Certain, but of a size that the inputs may give; numbers may be read from them as well."""
    call = facts.call
    sizes = call.argument("size") if call.has("size") else [0]
    depth = 0 if call.name == "scalar_tensor" else 2 if call.name == "eye" else len(sizes)
    asked = facts.asked and call.name in ("full", "new_full", "scalar_tensor", "linspace")
    unknown = torch.full([1] * depth, asked)
    device = call.kwargs.get("device") or (
        facts.operands[0].tensor.device if facts.operands else None
    )
    unknown = unknown.to(device)
    return [Fact(unknown, torch.full_like(unknown, -1, dtype=torch.int64), False)]


# -- moving ----------------------------------------------------------------------------------------


def _run_on(facts: Facts, mask_of: Callable[[Operand], Tensor], fill: float) -> list[Tensor]:
    """Run the operator on masks in the place of its tensors (floating point ones; not indices)."""
    flat, tree = tree_flatten((facts.call.args, facts.call.kwargs))
    indices = facts.call.argument("index") if facts.call.has("index") else None
    indices = (
        {id(t) for t in tree_leaves(facts.call.argument("indices"))}
        if facts.call.has("indices")
        else {id(indices)}
    )
    swapped = []
    for leaf in flat:
        if isinstance(leaf, Tensor) and id(leaf) not in indices:
            mask = mask_of(facts.of[id(leaf)])
            wide = mask.to(torch.float64).expand(leaf.shape).contiguous() - fill
            leaf = torch.complex(wide, wide) if leaf.is_complex() else wide
        swapped.append(leaf)
    args, kwargs = tree_unflatten(swapped, tree)
    kwargs.pop("dtype", None)
    if facts.call.has("value") and facts.call.name == "constant_pad_nd":
        args = (args[0], args[1], 0.0)
    out = facts.call.func(*args, **kwargs)
    parts = [torch.view_as_real(x) if x.is_complex() else x[..., None] for x in tree_leaves(out)]
    return [part.amax(-1) for part in parts]


@rule(
    "view", "_unsafe_view", "_reshape_alias", "reshape", "permute", "transpose", "t", "numpy_T",
    "expand", "squeeze", "unsqueeze", "repeat", "flip", "im2col", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "movedim", "view_as_complex", "view_as_real", "roll",
    "unfold", "diagonal", "tril", "triu", "rot90", "split", "unsafe_split", "split_with_sizes",
    "unsafe_split_with_sizes", "slice", "unbind", "select", "narrow", "as_strided",
    "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "cat", "concatenate", "stack",
    "transpose_", "t_", "swapaxes_", "swapdims_", "unsqueeze_", "squeeze_", "squeeze",
)  # fmt: skip
def _movement(facts: Facts) -> Sequence[Fact | None]:
    """The operator itself says where each entry goes; what it fills with zeros is certain."""
    unknown = _run_on(facts, lambda x: x.unknown, 0)
    groups = _run_on(facts, lambda x: x.groups, -1)
    pure = facts.pure and facts.call.name not in ("expand", "repeat", "slice")
    groups = [group.round().long() - 1 for group in groups]
    return [facts.make(a > 0, b, pure=pure) for a, b in zip(unknown, groups, strict=True)]


@rule("index", "index_select", "gather", "embedding")
def _lookup(facts: Facts) -> Sequence[Fact | None]:
    """What inputs choose is certain where all there is to choose from is the same."""
    call = facts.call
    source = facts.of[id(call.args[0])]
    if call.name == "embedding":
        known = facts.of[id(call.args[1])]
        row = source.unknown.any(0) | ~source.is_uniform([0])[0]
        groups = source.groups.amin(0)
        shape = [1] * known.tensor.ndim + [-1]
        return [facts.make(row.reshape(shape), groups.reshape(shape), pure=False)]
    chosen = [t for t in call.inputs if t is not source.tensor]
    if call.name == "index":
        dims, dim = [], 0
        for index in call.args[1]:
            width = index.ndim if index is not None and index.dtype == torch.bool else 1
            dims += range(dim, dim + width) if index is not None else ()
            dim += width
    else:
        dims = [call.argument("dim") % max(source.tensor.ndim, 1)]

    def moved(mask: Tensor) -> Tensor:
        full = mask.expand(source.tensor.shape).to(torch.float64)
        swapped = (full, *call.args[1:])
        return call.func(*swapped, **call.kwargs)

    if any(bool(facts.of[id(t)].unknown.any()) for t in chosen):
        mixed = source.unknown.expand(source.tensor.shape).any(dims[0], keepdim=True)
        for dim in dims[1:]:
            mixed = mixed.any(dim, keepdim=True)
        mixed = mixed | ~source.is_uniform(dims)
        groups = source.groups.amin(dims, keepdim=True)
    else:
        mixed, groups = source.unknown, source.groups
    return [facts.make(moved(mixed) > 0, moved(groups).long(), pure=facts.pure)]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def _bag(facts: Facts) -> Sequence[Fact | None]:
    """Zero where the whole column is, however many rows a bag has."""
    table = facts.of[id(facts.call.args[0])]
    full, groups = any_along(table.full, [0]), table.groups.amin(0, keepdim=True)
    return [facts.make(full, groups, pure=False)]


@rule("index_put", "_index_put_impl", "scatter", "scatter_add", "index_add", "index_copy",
       "scatter_reduce")  # fmt: skip
def _address(facts: Facts) -> Sequence[Fact | None]:
    """Zeros stay where zeros are written, wherever that is."""
    call = facts.call
    target = facts.of[id(call.args[0])]
    depth = target.tensor.ndim
    if call.has("indices"):
        sources, given = [call.argument("values")], call.argument("indices")
        count = sum(i.ndim if i.dtype == torch.bool else 1 for i in given if i is not None)
        dims = list(range(count)) if None not in given else list(range(depth))
    else:
        dims = [call.argument("dim") % max(depth, 1)]
        sources = [t for t in call.args[3:] if isinstance(t, Tensor)]
        if not sources:
            return ()
    unknown, groups = any_along(target.full, dims), target.groups.amin(dims, keepdim=True)
    for tensor in sources:
        operand = facts.of[id(tensor)]
        mine = operand.full
        if call.has("indices"):
            behind = depth - len(dims)
            front = list(range(tensor.ndim - behind)) if tensor.ndim > behind else []
            mine = any_along(mine, front) if front else mine
            mine = mine.reshape([1] * len(dims) + list(mine.shape[len(front) :]))
        else:
            mine = any_along(mine, dims)
        if any(n not in (1, m) for n, m in zip(mine.shape, target.tensor.shape, strict=True)):
            return ()
        unknown = unknown | mine
    return [facts.make(unknown, groups)]
