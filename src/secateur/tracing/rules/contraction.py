"""Matrix products and convolutions: labels along the contracted axes are tied, the others pass."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.tracing.labels import Labels, Operator, varied
from secateur.tracing.rules.call import Call, rule
from secateur.tracing.rules.pointwise import merge


def contract(
    labels: Labels,
    call: Call,
    operands: tuple[tuple[Tensor, str], tuple[Tensor, str]],
    out_axes: str,
    role: str,
) -> list[Tensor]:
    """Follow out = sum over the axes that `operands` share and `out_axes` lacks; return its planes.

    Axes are letters, one per dimension, as in einsum. Labels along a contracted axis are tied, the
    others pass on; in a weight, the contracted axis consumes and the other one produces. Labels
    that vary along a batch axis and another one (heads and head size) keep what `labels.keep` says.
    """
    (a, a_axes), (b, b_axes) = operands
    contracted = {letter for letter in a_axes if letter in b_axes and letter not in out_axes}
    batch = set(a_axes) & set(b_axes) & set(out_axes)
    inner: dict[str, list[Tensor]] = {letter: [] for letter in contracted}
    outer: list[tuple[Tensor, list[Tensor]]] = []
    attention = labels.is_data(a) and labels.is_data(b)
    repeats = labels.keep == "batch" and (attention or _scores_positions(labels, operands, batch))
    for tensor, axes in operands:
        passing = []
        for plane in _apart(labels, (tensor, axes), (b, b_axes) if tensor is a else (a, a_axes)):
            letters = {axes[dim] for dim in varied(plane)}
            if attention and letters & (batch | contracted):  # others only pass by
                labels.mark_role("attention", [plane])
            if repeats:  # a key/value head may serve several queries
                plane, letters = _keep_heads(labels, plane, axes, batch, contracted)
            elif len(letters) > 1 and letters & batch:
                plane = labels.straighten(plane, [d for d in varied(plane) if axes[d] not in batch])
                letters -= batch
            shared = letters & contracted
            if shared:
                keep = axes.index(min(shared))
                line = labels.straighten(plane, [keep]).reshape(-1)
                inner[axes[keep]].append(line)
                if not labels.is_data(tensor):
                    labels.mark_role("consumer", [line])
            elif not letters <= set(out_axes):
                labels.protect([plane], f"reaches {call.name} along an axis that it slides over")
                labels.mark_role("consumer", [] if labels.is_data(tensor) else [plane])
            else:
                if not labels.is_data(tensor):
                    labels.mark_role(role, [plane])
                    if labels.plays("merged", plane):  # a size within blocks of outputs (heads)
                        labels.mark_role("inside", [plane])
                    if labels.is_data(a) or labels.is_data(b):  # else: a weight made of weights
                        labels.mark_role("producer", [plane])
                passing.append(_relabel(plane, axes, out_axes))
        shown = "".join("-" if repeats and letter in batch else letter for letter in axes)
        outer.append((_ghost(tensor, shown, out_axes), passing))
    if repeats:
        _mark_shared(labels, [planes for _, planes in outer])
    for letter, lines in inner.items():
        size = a.shape[a_axes.index(letter)]
        if len(lines) == 2:
            labels.tie(lines[0], lines[1])
        elif size > 1:
            labels.protect(lines, f"is contracted by {call.name} with an axis that no group owns")
    merged = merge(
        labels, call.outputs[0], outer, f"meets an axis in {call.name} that no group owns"
    )
    if flops := call.flops():
        depth = len(contracted) + len(out_axes)
        planes = [plane.reshape((1,) * len(contracted) + tuple(plane.shape)) for plane in merged]
        for position, letter in enumerate(sorted(contracted)):
            shape = [-1 if dim == position else 1 for dim in range(depth)]
            planes += [line.reshape(shape) for line in inner[letter][:1]]
        labels.operators.append(Operator(call.name, flops, depth, tuple(planes)))
    return merged


def _apart(labels: Labels, operand: tuple[Tensor, str], other: tuple[Tensor, str]) -> list[Tensor]:
    """The planes of an operand, one for each of its axes.

    A weight of (inputs, heads, size) brings two for the last two merged into one. What it meets
    says which of them are the heads; else they stand in front of their sizes.
    """
    (tensor, axes), (mate, mate_axes) = operand, other
    planes = labels.planes(tensor)
    dims = [dim for plane in planes for dim in varied(plane)]
    if len(dims) == len(set(dims)):
        return planes
    met = [
        _pattern(plane)
        for plane in labels.planes(mate)
        if {mate_axes[dim] for dim in varied(plane)} & set(axes)
    ]
    kept: list[Tensor] = []
    for plane in sorted(planes, key=lambda plane: (_pattern(plane) not in met, -_run(plane))):
        if any(set(varied(plane)) & set(varied(before)) for before in kept):
            labels.protect([plane], "is merged with another axis")
        else:
            kept.append(plane)
    return kept


def _run(plane: Tensor) -> int:
    """How many entries of a plane are like the first one before they change."""
    changed = (plane != plane.reshape(-1)[0]).reshape(-1).nonzero()
    return int(changed[0]) if len(changed) else plane.numel()


def _pattern(plane: Tensor) -> tuple[int, ...]:
    """Which entries of a plane are equal, whatever the labels are called."""
    return tuple(torch.unique(plane.reshape(-1), return_inverse=True)[1].tolist())


def _scores_positions(
    labels: Labels, operands: tuple[tuple[Tensor, str], tuple[Tensor, str]], batch: set[str]
) -> bool:
    """Whether queries meet what each head makes of weights alone: keys of relative positions.

    These come in heads cut out of one axis, unlike the weights of several experts.
    """
    for (tensor, axes), (other, _) in (operands, operands[::-1]):
        if not labels.is_data(tensor) and labels.is_data(other):
            for plane in labels.planes(tensor):
                letters = {axes[dim] for dim in varied(plane)}
                if letters & batch and (len(letters) > 1 or labels.holds_heads(plane)):
                    return True
    return False


def _mark_shared(labels: Labels, sides: list[list[Tensor]]) -> None:
    """Heads on one side of a product only: what stands on the other side serves all of them.

    Heads on both sides that meet are one: the queries of a key/value head go with it.
    """
    heads = [[plane for plane in side if labels.is_head(plane)] for side in sides]
    for mine, others in (heads, heads[::-1]):
        if not others:
            labels.mark_role("shared", mine)
    for one in heads[0]:
        for other in heads[1]:
            if varied(one) == varied(other) and one.shape == other.shape:
                labels.join(one.numpy(), other.numpy())


def _keep_heads(
    labels: Labels, plane: Tensor, axes: str, batch: set[str], contracted: set[str]
) -> tuple[Tensor, set[str]]:
    """In an attention product the batch axis is that of the heads: it stays, head sizes don't.

    Where the heads stand behind one another along the rows (one key/value head), the rows stay.
    """
    letters = {axes[dim] for dim in varied(plane)}
    heads = letters & batch or (letters - contracted if letters & contracted else set())
    if not heads:
        return plane, letters
    if letters != heads:
        keep = [dim for dim in varied(plane) if axes[dim] in heads]
        labels.join_heads(plane, keep)
        plane = labels.straighten(plane, keep)
    labels.mark_role("heads", [plane])
    return plane, heads


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
    is_data = labels.any_data(call.inputs)
    planes = contract(labels, call, ((a, a_axes), (b, b_axes)), out_axes, "linear")
    out = call.outputs[0]
    if has_bias:
        labels.put(out, planes, is_data=is_data)
        bias = call.args[0]
        why = f"is combined by {call.name} with a bias that no group owns"
        planes = merge(labels, out, [(out, planes), (bias, labels.planes(bias))], why)
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
        planes = contract(
            labels, call, ((x, "nc" + spatial.upper()), (weight, w_axes)), "no" + spatial, "filter"
        )
    else:
        planes = _grouped_convolution(labels, call, x, weight, out, groups, transposed)
    if bias is not None:
        is_data = labels.any_data(call.inputs)
        labels.put(out, planes, is_data=is_data)
        shape = [1, -1] + [1] * (out.ndim - 2)
        lifted = [plane.reshape(shape) for plane in labels.planes(bias)]
        why = "has a bias that no group owns"
        planes = merge(labels, out, [(out, planes), (bias.reshape(shape), lifted)], why)
    labels.put(out, planes, is_data=labels.any_data(call.inputs))


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
        labels.operators.append(Operator(call.name, call.flops()))
        return []
    labels.mark_role("producer", rows)
    into, weights = passing[0].reshape(groups, -1), rows[0].reshape(groups, -1)
    for piece in (into, weights):
        labels.tie(piece[:, :1], piece)
    labels.tie(into[:, :1], weights[:, :1])
    per_group = out.shape[1] // groups
    produced = weights[:, :1].expand(groups, per_group) if transposed else weights
    plane = produced.reshape(channel)
    labels.operators.append(Operator(call.name, call.flops(), 1, (rows[0].reshape(-1),)))
    return [plane]
