"""Normalisation: the axis is tied with its scale, shift and statistics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from secateur.tracing.labels import Labels, varied
from secateur.tracing.rules.call import Call, rule
from secateur.tracing.rules.pointwise import merge


def _along(labels: Labels, x: Tensor, dim: int, vectors: Sequence[Tensor | None]) -> list[Tensor]:
    """Tie axis `dim` of `x` with per-channel vectors; returns the planes of `x` afterwards."""
    shape = [-1 if d == dim else 1 for d in range(x.ndim)]
    parts: list[tuple[Tensor, list[Tensor]]] = [(x, labels.planes(x))]
    for vector in vectors:
        if vector is not None:
            lifted = [plane.reshape(shape) for plane in labels.planes(vector)]
            parts.append((vector.reshape(shape), lifted))
    return merge(labels, x, parts, "is normalised together with an axis that no group owns")


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm",
)  # fmt: skip
def _batch_norm(labels: Labels, call: Call) -> None:
    x = call.args[0]
    vectors = [arg for arg in call.args[1:5] if isinstance(arg, Tensor)]
    planes = _along(labels, x, 1, vectors)
    is_data = labels.any_data(call.inputs)
    for out in call.outputs:
        labels.put(out, planes if out.shape == x.shape else [], is_data=is_data)


@rule("_weight_norm_interface")
def _weight_norm(labels: Labels, call: Call) -> None:
    """w = g v / |v|: a zero g kills a slice of w; v only follows, since |v| = 0 has no direction.

    Cutting v along its other dimensions changes |v|, which surgery undoes in g (removal.py).
    """
    direction, magnitude = call.args[:2]
    dim = call.argument("dim") % direction.ndim
    planes = labels.planes(magnitude)
    for plane in labels.planes(direction):
        labels.mark_role("consumer", [plane])
        if varied(plane) == (dim,) and planes:
            labels.tie(planes[0], plane)
        else:
            planes = [*planes, plane]
    labels.put(call.outputs[0], planes, is_data=False)


@rule("native_layer_norm", "_fused_rms_norm", "native_group_norm")
def _statistics_norm(labels: Labels, call: Call) -> None:
    x, is_data = call.args[0], labels.any_data(call.inputs)
    if call.name == "native_group_norm":
        groups = call.argument("group")
        planes = _along(labels, x, 1, [call.argument("weight"), call.argument("bias")])
        for plane in planes:
            if varied(plane) == (1,) and groups > 1:
                members = plane.reshape(groups, -1)
                labels.tie(members[:, :1], members)
            else:
                labels.mark_inexact([plane], "is normalised with its whole group")
    else:
        depth = len(call.argument("normalized_shape"))
        weight = call.argument("weight")
        bias = call.argument("bias") if call.name == "native_layer_norm" else None
        parts = [(t, labels.planes(t)) for t in (x, weight, bias) if t is not None]
        planes = merge(labels, x, parts, "is normalised together with an axis no group owns")
        for plane in planes:
            if any(dim >= x.ndim - depth for dim in varied(plane)):
                labels.mark_inexact([plane], f"is mixed by the statistic of {call.name}")
    for out in call.outputs:
        labels.put(out, planes if out.shape == x.shape else [], is_data=is_data)
