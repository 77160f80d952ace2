"""Operators that work entry by entry: labels that meet there are tied."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from secateur.tracing.labels import Labels, varied
from secateur.tracing.rules.call import Call, rule


def merge(
    labels: Labels,
    out: Tensor,
    parts: Sequence[tuple[Tensor, Sequence[Tensor]]],
    why: str,
    *,
    weights: bool = False,
) -> list[Tensor]:
    """Planes of a result that combines `parts`, broadcast (tensor, planes), entry by entry.

    Planes that vary along common dimensions are tied. A dimension that is labelled in one part and
    has its full size, but no label, in another can't be cut there, so it is protected.
    """
    merged: list[Tensor] = []
    lifted = []
    for tensor, planes in parts:
        pad = out.ndim - tensor.ndim
        shape = (1,) * pad + tuple(tensor.shape)
        strides = (0,) * pad + tensor.stride()  # 0: expanded, so it follows what it meets
        lifted.append((shape, strides, [p.reshape((1,) * pad + tuple(p.shape)) for p in planes]))
    for plane in [plane for *_, planes in lifted for plane in planes]:
        meeting = [other for other in merged if set(varied(plane)) & set(varied(other))]
        for other in meeting:
            labels.tie(other, plane, weights=weights)
        # What varies along most dimensions speaks for all that it is tied to.
        widest = max([*meeting, plane], key=lambda p: len(varied(p)))
        merged = [other for other in merged if all(other is not met for met in meeting)]
        for other in meeting:
            if other is not widest and not set(varied(other)) <= set(varied(widest)):
                labels.protect([other, widest], why)
        merged.append(widest)
    for shape, strides, planes in lifted:
        own = {dim for plane in planes for dim in varied(plane)}
        full = {dim for dim, size in enumerate(shape) if size > 1 and strides[dim]}
        for plane in merged:
            if any(dim in full and dim not in own for dim in varied(plane)):
                labels.protect([plane], why)
    return merged


@rule(
    "hardswish", "hardsigmoid", "hardtanh", "_prelu_kernel", "masked_fill", "where", "copy",
    "clone", "_to_copy", "detach", "alias", "lift_fresh", "lift_fresh_copy", "contiguous",
    "native_dropout", "bernoulli", "log_sigmoid_forward", "erfinv", "fill", "zero", "nan_to_num",
    "threshold", "relu6", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like",
    "randn_like", "polar", "complex", "_conj", "_conj_physical", "_neg_view", "resolve_conj",
    "resolve_neg", "real", "imag",
)  # fmt: skip
def pointwise(labels: Labels, call: Call) -> None:
    why = f"is combined by {call.name} with a tensor that no group owns"
    is_data = labels.any_data(call.inputs)
    first = call.outputs[0]
    parts = [(t, labels.planes(t)) for t in call.inputs if t.ndim <= first.ndim]
    planes = merge(labels, first, parts, why, weights=not is_data)
    for out in call.outputs:
        fits = out.shape == first.shape
        labels.put(out, planes if fits else [], is_data=is_data)
