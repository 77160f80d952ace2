"""Reductions, pooling and lookups: other axes pass, the one they run along mostly stays whole."""

from __future__ import annotations

from torch import Tensor

from secateur.tracing.labels import Labels, varied
from secateur.tracing.rules.call import Call, rule
from secateur.tracing.rules.pointwise import pointwise


@rule("sum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "linalg_vector_norm",
      "norm", "prod", "logsumexp", "any", "all", "argmax", "argmin", "aminmax")  # fmt: skip
def _reduction(labels: Labels, call: Call) -> None:
    """Over an unlabelled axis labels pass; over a labelled one only a sum is exact."""
    x, is_data = call.args[0], labels.any_data(call.inputs)
    dims = call.argument("dim") if call.has("dim") else None
    keepdim = bool(call.argument("keepdim")) if call.has("keepdim") else False
    if len(call.inputs) > 1:  # max(a, b) of two tensors is pointwise
        pointwise(labels, call)
        return
    dims = list(range(x.ndim)) if dims in (None, []) else dims
    reduced = {dim % x.ndim for dim in ([dims] if isinstance(dims, int) else dims)}
    passing = []
    for plane in labels.planes(x):
        plane = _leave(labels, plane, reduced)
        if not set(varied(plane)) & reduced:
            passing.append(plane)
        elif call.name != "sum":
            labels.mark_inexact([plane], f"is reduced by {call.name}")
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


@rule("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "sort", "topk")
def _along_axis(labels: Labels, call: Call) -> None:
    """The axis that the operator runs along can't be cut; the others pass."""
    x = call.args[0]
    dim = call.argument("dim") % x.ndim
    passing = []
    for plane in labels.planes(x):
        plane = _leave(labels, plane, {dim})
        if dim in varied(plane):
            labels.protect([plane], f"is the axis that {call.name} runs along")
        else:
            passing.append(plane)
    for out in call.outputs:
        labels.put(out, passing, is_data=labels.any_data(call.inputs))


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _spectrum(labels: Labels, call: Call) -> None:
    """A transform mixes the axes that it runs along; the others pass."""
    x = call.args[0]
    mixed = {dim % x.ndim for dim in call.argument("dim")}
    passing = []
    for plane in labels.planes(x):
        plane = _leave(labels, plane, mixed)
        if mixed & set(varied(plane)):
            labels.protect([plane], f"is mixed by {call.name}")
        else:
            passing.append(plane)
    labels.put(call.outputs[0], passing, is_data=labels.is_data(x))


@rule("col2im")
def _fold(labels: Labels, call: Call) -> None:
    """Columns (batch, channels x kernel, places) become (batch, channels, height, width)."""
    x, kernel = call.args[0], call.argument("kernel_size")
    batched = x.ndim == 3
    passing = []
    for plane in labels.planes(x):
        along = varied(plane)
        if along == (x.ndim - 2,):
            channels = plane.reshape(-1, kernel[0] * kernel[1])
            labels.tie(channels[:, :1], channels)
            shape = [-1, 1, 1]
            passing.append(channels[:, :1].reshape([1, *shape] if batched else shape))
        elif batched and along == (0,):
            passing.append(plane.unsqueeze(-1))
        else:
            labels.protect([plane], "reaches col2im along space")
    labels.put(call.outputs[0], passing, is_data=labels.is_data(x))


def _leave(labels: Labels, plane: Tensor, dims: set[int]) -> Tensor:
    """Keep `dims` whole where the labels also vary along another dimension."""
    others = [dim for dim in varied(plane) if dim not in dims]
    return labels.straighten(plane, others) if others else plane


@rule("glu")
def _gate(labels: Labels, call: Call) -> None:
    """One half of the axis multiplies the other, so both lose the same positions."""
    x = call.args[0]
    dim = call.argument("dim") % x.ndim
    passing = []
    for plane in labels.planes(x):
        if dim in varied(plane):
            halves = plane.unflatten(dim, (2, -1))
            labels.tie(halves.narrow(dim, 0, 1), halves)
            plane = halves.select(dim, 0)
        passing.append(plane)
    labels.put(call.outputs[0], passing, is_data=labels.any_data(call.inputs))


@rule(
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d",
    "upsample_bilinear2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact3d", "upsample_bicubic2d",
    "upsample_linear1d", "upsample_trilinear3d",
)  # fmt: skip
def _spatial(labels: Labels, call: Call) -> None:
    """Pooling and resampling work along space and leave the channels alone."""
    x = call.args[0]
    count = next(int(c) for c in call.name if c.isdigit())
    spatial = set(range(x.ndim - count, x.ndim))
    passing = []
    for plane in labels.planes(x):
        plane = _leave(labels, plane, spatial)
        if not set(varied(plane)) & spatial:
            passing.append(plane)
        else:
            labels.protect([plane], f"reaches {call.name} along space")
    for out in call.outputs:
        labels.put(out, passing, is_data=labels.any_data(call.inputs))


@rule("grid_sampler_2d", "grid_sampler_3d")
def _sampling(labels: Labels, call: Call) -> None:
    """Channels pass; where to sample is not for them to say."""
    labels.protect(labels.planes(call.args[1]), f"says where {call.name} samples")
    _spatial(labels, call)


@rule("embedding")
def _embedding(labels: Labels, call: Call) -> None:
    index = call.args[1]
    _look_up(labels, call, [1] * index.ndim + [-1])


@rule("_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(labels: Labels, call: Call) -> None:
    """One row a bag: the sum, the mean or the largest of the rows it looks up, column by column."""
    factors = call.argument("per_sample_weights")
    if factors is not None:
        labels.protect(labels.planes(factors), f"weighs what {call.name} looks up")
    _look_up(labels, call, [1, -1])
    for counts in call.outputs[1:]:
        labels.put(counts, [], is_data=True)


def _look_up(labels: Labels, call: Call, shape: list[int]) -> None:
    """Columns of a table become the last axis of the first output, of a shape with -1 for it."""
    weight = call.args[0]
    labels.protect([p for p in labels.planes(weight) if 0 in varied(p)], "is a vocabulary")
    columns = [p for p in labels.planes(weight) if varied(p) == (1,)]
    labels.mark_role("producer", columns)
    labels.put(call.outputs[0], [p.reshape(shape) for p in columns], is_data=True)
