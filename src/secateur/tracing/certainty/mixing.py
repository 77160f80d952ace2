"""How certainty moves through operators that mix entries: reductions, products, normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from secateur.tracing.certainty.entrywise import pointwise
from secateur.tracing.certainty.facts import Fact, Facts, Operand, any_along, any_of, most, rule

# -- mixing ----------------------------------------------------------------------------------------


@rule("sum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "norm", "prod",
       "linalg_vector_norm", "logsumexp", "any", "all", "argmax", "argmin", "aminmax")  # fmt: skip
def _reduction(facts: Facts) -> Sequence[Fact | None]:
    """A mean of equal values is one of them; a sum counts how many there are."""
    call = facts.call
    if len(facts.operands) > 1:
        return pointwise(facts)
    x = facts.operands[0]
    depth = x.tensor.ndim
    dims = call.argument("dim") if call.has("dim") else None
    dims = list(range(depth)) if dims in (None, []) else dims
    dims = sorted({d % max(depth, 1) for d in ([dims] if isinstance(dims, int) else dims)})
    if not dims:
        return pointwise(facts)
    groups = x.groups.amin(dims, keepdim=True)
    facts.blame(x, x.unknown & (groups < 0))
    unknown = any_along(x.unknown, dims)
    if not x.fact.pure:
        constant = any_along(x.constant, dims)
        counts = call.name in ("sum", "prod", "norm", "linalg_vector_norm", "logsumexp", "aminmax")
        if bool(constant.any()):
            unknown = unknown | (constant if counts else x.uneven(constant, dims))
    keepdim = bool(call.argument("keepdim")) if call.has("keepdim") else False
    if not keepdim:
        sizes = [d for d in range(depth) if d not in dims]
        unknown, groups = (
            mask.reshape([mask.shape[d] for d in sizes]) for mask in (unknown, groups)
        )
    fact = facts.make(unknown, groups)
    return [fact] * max(1, len(call.func._schema.returns))


@rule("cumsum", "cumprod", "_fft_r2c", "_fft_c2c", "_fft_c2r", "_softmax", "_log_softmax",
       "_safe_softmax", "sort", "topk", "logcumsumexp")  # fmt: skip
def _along(facts: Facts) -> Sequence[Fact | None]:
    """Only zeros are certain to stay what they are, and only in sums."""
    call, x = facts.call, facts.operands[0]
    dims = call.argument("dim")
    dims = [d % max(x.tensor.ndim, 1) for d in ([dims] if isinstance(dims, int) else dims)]
    full = any_along(x.unknown if x.fact.pure else x.full, dims)
    keeps = call.name.startswith(("cum", "_fft")) or x.fact.pure
    unknown = full if keeps else torch.ones_like(full)
    groups = x.groups.amin(dims, keepdim=True)
    facts.blame(x, x.unknown & (groups < 0)) if call.name.startswith("_fft") else None
    return [facts.make(unknown, groups)] * max(1, len(call.func._schema.returns))


@rule(
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_bilinear2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "upsample_bicubic2d",
    "upsample_linear1d", "upsample_trilinear3d", "grid_sampler_2d", "grid_sampler_3d",
)  # fmt: skip
def _spatial(facts: Facts) -> Sequence[Fact | None]:
    """A constant stays one where nothing was padded; zeros stay in any case."""
    call = facts.call
    x = facts.of[id(call.args[0])]
    count = next(int(c) for c in call.name if c.isdigit())
    dims = list(range(x.tensor.ndim - count, x.tensor.ndim))
    pads = call.argument("padding") if call.has("padding") else 0
    pads = any(pads) if isinstance(pads, (list, tuple)) else bool(pads)
    zeros = call.name.startswith("grid") or (call.name.startswith("avg_pool") and pads)
    constant = any_along(x.constant, dims)
    unknown = any_along(x.unknown, dims)
    unknown = unknown | (constant if zeros else x.uneven(constant, dims))
    fact = facts.make(unknown, x.groups.amin(dims, keepdim=True))
    return [fact] * max(1, len(call.func._schema.returns))


@rule("col2im")
def _fold(facts: Facts) -> Sequence[Fact | None]:
    """Overlapping pieces are added up."""
    x, kernel = facts.operands[0], facts.call.argument("kernel_size")
    places = kernel[0] * kernel[1]

    def channels(mask: Tensor) -> Tensor:
        shape = list(mask.shape)
        shape[-2] = x.tensor.shape[-2]
        return mask.expand(shape).unflatten(-2, (-1, places))

    unknown = channels(x.full).any(-2).any(-1)[..., None, None]
    groups = channels(x.groups).amin((-2, -1))[..., None, None]
    return [facts.make(unknown, groups)]


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm",
)  # fmt: skip
def _batch_norm(facts: Facts) -> Sequence[Fact | None]:
    """A constant that is not at its running mean is another one in train mode: uncertain."""
    x = facts.of[id(facts.call.args[0])]
    rest = [facts.of[id(t)] if isinstance(t, Tensor) else None for t in facts.call.args[1:5]]
    shape = [1, -1] + [1] * (x.tensor.ndim - 2)

    def channel(mask: Tensor) -> Tensor:
        return mask.reshape(shape)

    weight, bias, mean, _ = rest
    dims = [0, *range(2, x.tensor.ndim)]
    if mean is None:
        unknown = any_along(x.unknown, dims) | x.uneven(any_along(x.constant, dims), dims)
    else:
        unknown = x.unknown | any_along(x.tensor != channel(mean.tensor), dims)
    if weight is not None:
        unknown = unknown & ~channel(weight.zero)
    if bias is not None:
        unknown = unknown | channel(bias.unknown)
    groups = [x.groups, *(channel(v.groups) for v in rest if v is not None)]
    return [facts.make(unknown, most(groups))]


@rule("native_layer_norm", "_fused_rms_norm", "native_group_norm")
def _statistics_norm(facts: Facts) -> Sequence[Fact | None]:
    """Certain where the scale is zero."""
    call = facts.call
    x = facts.of[id(call.args[0])]
    weight, bias = facts.argument("weight"), facts.argument("bias")
    depth = x.tensor.ndim

    def placed(mask: Tensor) -> Tensor:
        if call.name == "native_group_norm":
            return mask.reshape([1, -1] + [1] * (depth - 2))
        return mask.reshape((1,) * (depth - mask.ndim) + tuple(mask.shape))

    unknown = torch.ones_like(x.unknown)
    if call.name != "native_group_norm":
        dims = list(range(depth - len(call.argument("normalized_shape")), depth))
        alive = x.groups.amin(dims, keepdim=True) < 0
        facts.blame(x, x.unknown & alive)
    else:
        alive = _group_is_alive(x, call.argument("group"))
        facts.blame(x, x.unknown & alive)
        within = list(range(2, depth))
        zero = any_along(x.full, within) if within else x.full
        lines = zero.expand(zero.shape[0], x.tensor.shape[1], *zero.shape[2:])
        grouped = lines.unflatten(1, (call.argument("group"), -1))
        unknown = grouped.any(2, keepdim=True).expand(grouped.shape).flatten(1, 2)
    if weight is not None:
        unknown = unknown & ~placed(weight.zero)
    if bias is not None:
        unknown = unknown | placed(bias.unknown)
    groups = [x.groups, *(placed(v.groups) for v in (weight, bias) if v is not None)]
    return [facts.make(unknown, most(groups))]


def _group_is_alive(x: Operand, count: int) -> Tensor:
    """Which channels are normalised with some that stay."""
    dims = [0, *range(2, x.tensor.ndim)]
    line = x.groups.amin(dims, keepdim=True)
    shape = list(line.shape)
    shape[1] = x.tensor.shape[1]
    grouped = line.expand(shape).unflatten(1, (count, -1))
    return (grouped.amin(2, keepdim=True) < 0).expand(grouped.shape).flatten(1, 2)


def _contract(facts: Facts, a: Operand, b: Operand, axes: tuple[str, str, str]) -> list[Tensor]:
    """out = sum over the axes that only the operands have: where it is unknown, and its groups."""
    first, second, out = axes
    gone = {letter for letter in first + second if letter not in out}
    if not all(a.tensor.shape[first.index(letter)] for letter in gone):  # no summand: zeros
        known = torch.zeros([1] * len(out), dtype=torch.bool, device=a.tensor.device)
        return [known, known.long() - 1]

    def product(mine: Tensor, its: Tensor) -> Tensor:
        mine, its = mine.float(), its.float()
        return torch.einsum(f"{first},{second}->{out}", mine, its) > 0

    def moved(mask: Tensor, letters: str, to: str) -> Tensor:
        """A mask with the axes `to`; what it lacks has size 1, what they lack must have."""
        kept = [letter for letter in letters if letter in to]
        shape = dict(zip(letters, mask.shape, strict=True))
        order = sorted(kept, key=to.index)
        mask = mask.permute(
            *[letters.index(x) for x in letters if x not in to], *[letters.index(x) for x in order]
        )
        return mask.reshape([shape[x] if x in kept else 1 for x in to])

    def dims_of(letters: str, these: Iterable[str]) -> list[int]:
        return [letters.index(letter) for letter in these if letter in letters]

    unknown = product(a.unknown, b.full)
    if bool(b.unknown.any()):
        unknown = unknown | product(a.full, b.unknown)
    if not (a.fact.pure or b.fact.pure):  # how many constants are added up, the inputs may say
        unknown = unknown | product(a.constant, b.constant)
    groups = []
    for mine, letters in ((a, first), (b, second)):
        dims = dims_of(letters, gone)
        whole = mine.groups.amin(dims, keepdim=True) if dims else mine.groups
        groups.append(moved(whole, letters, out))
    for mine, its, letters, others in ((a, b, first, second), (b, a, second, first)):
        dims = dims_of(letters, gone)
        stays = (mine.groups.amin(dims, keepdim=True) if dims else mine.groups) < 0
        alone = [x for x in others if x not in letters]
        meets = [any_along(mask, dims_of(others, alone)) for mask in (its.full, its.unknown)]
        full, unsure = (moved(mask, others, letters) for mask in meets)
        facts.blame(mine, ((mine.unknown & full) | (mine.full & unsure)) & stays)
    return [unknown, torch.maximum(*torch.broadcast_tensors(*groups))]


@rule("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot")
def _matrix_product(facts: Facts) -> Sequence[Fact | None]:
    name = facts.call.name.removesuffix("_")
    has_bias = name in ("addmm", "baddbmm", "addmv")
    operands = [facts.of[id(t)] for t in facts.call.args[: 2 + has_bias]]
    a, b = operands[-2:]
    axes = {
        "mm": ("ik", "kj", "ij"),
        "bmm": ("nik", "nkj", "nij"),
        "mv": ("ik", "k", "i"),
        "dot": ("k", "k", ""),
    }["bmm" if name == "baddbmm" else name.removeprefix("add")]
    unknown, groups = _contract(facts, a, b, axes)
    if has_bias:
        unknown = any_of([unknown, operands[0].unknown])
        groups = most([groups, operands[0].groups])
    return [facts.make(unknown, groups)]


@rule("_grouped_mm")
def _grouped_product(facts: Facts) -> Sequence[Fact | None]:
    """Rows of several experts: what any of them may give."""
    a, b = (facts.of[id(t)] for t in facts.call.args[:2])
    if a.tensor.ndim != 2 or b.tensor.ndim != 3:
        return ()
    any_expert = Operand(b.tensor[0], b.fact)
    any_expert.unknown, any_expert.groups = b.unknown.any(0), b.groups.amin(0)
    any_expert.zero = ~b.full.any(0)
    unknown, groups = _contract(facts, a, any_expert, ("ik", "kj", "ij"))
    return [facts.make(unknown, groups)]


@rule("convolution")
def _convolution(facts: Facts) -> Sequence[Fact | None]:
    """Channels only: what is not the same everywhere along space counts as unknown."""
    call = facts.call
    x, weight = (facts.of[id(t)] for t in call.args[:2])
    bias = facts.of[id(call.args[2])] if call.args[2] is not None else None
    transposed, count = call.argument("transposed"), call.argument("groups")
    space = list(range(2, x.tensor.ndim))
    pads = transposed or any(call.argument("padding"))
    constant = any_along(x.constant, space)
    lost = constant if pads else x.uneven(constant, space)
    inputs, kernel = Operand(x.tensor, x.fact), Operand(weight.tensor, weight.fact)
    inputs.unknown = any_along(x.unknown, space) | lost
    inputs.zero, inputs.groups = ~any_along(x.full, space), x.groups.amin(space, keepdim=True)
    kernel.unknown = any_along(weight.unknown, space)
    kernel.zero, kernel.groups = (
        ~any_along(weight.full, space),
        weight.groups.amin(space, keepdim=True),
    )

    def lines(mask: Tensor, channels: int, dim: int) -> Tensor:
        mask = mask.flatten(2).squeeze(2)
        shape = list(mask.shape)
        shape[dim] = channels
        return mask.expand(shape)

    # groups as an axis of their own: x (n, g, c), weight (g, o, c), or (g, c, o) transposed
    rows = weight.tensor.shape[0]
    pairs = []
    for operand, channels, dim in ((inputs, x.tensor.shape[1], 1), (kernel, rows, 0)):
        lifted = Operand(operand.tensor, operand.fact)
        for name in ("unknown", "zero", "groups"):
            mask = lines(getattr(operand, name), channels, dim)
            setattr(lifted, name, mask.unflatten(dim, (count, -1)))
        pairs.append(lifted)
    axes = ("ngc", "gco" if transposed else "goc", "ngo")
    unknown, groups = _contract(facts, pairs[0], pairs[1], axes)
    outputs = weight.tensor.shape[1] * count if transposed else rows
    shape = (-1, outputs) + (1,) * len(space)
    unknown, groups = (
        mask.expand(mask.shape[0], count, outputs // count).reshape(shape)
        for mask in (unknown, groups)
    )
    if bias is not None:
        lifted = (1, -1) + (1,) * len(space)
        unknown = unknown | bias.unknown.reshape(lifted)
        groups = torch.maximum(groups, bias.groups.reshape(lifted))
    return [facts.make(unknown, groups)]
