"""Buffers that a model makes of nothing and fills piece by piece: a concatenation in disguise."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.tracing.labels import Labels, entries, varied
from secateur.tracing.rules.call import Call
from secateur.tracing.rules.pointwise import merge


def fills_buffer(labels: Labels, call: Call) -> bool:
    """Follow `buffer[:, a:b] = x`; False where it is anything else, and nothing has been done.

    Along the axis of the pieces their labels stand one behind the other; along others they are
    tied.
    """
    if call.name != "copy_":
        return False
    piece, source = call.args[:2]
    buffer = _buffer_of(labels, piece)
    if buffer is None or source.shape != piece.shape:
        return False
    (dim,) = (d for d in range(piece.ndim) if piece.shape[d] != buffer.shape[d])
    planes = labels.planes(source)
    along = [plane for plane in planes if dim in varied(plane)]
    others = [plane for plane in planes if dim not in varied(plane)]
    if len(along) > 1:
        return False
    before = [plane for plane in labels.planes(buffer) if not _is_fresh(labels, plane)]
    line = [plane for plane in before if dim in varied(plane)]
    parts = [(source.narrow(dim, 0, 1), others)]
    if labels.buffers[buffer]:
        kept = [plane for plane in before if dim not in varied(plane)]
        parts.insert(0, (buffer.narrow(dim, 0, 1), kept))
    why = "is written into a buffer beside a tensor that no group owns"
    tied = merge(labels, buffer, parts, why)
    start = (piece.storage_offset() - buffer.storage_offset()) // buffer.stride(dim)
    joined = _written([*line, *along], buffer, dim)
    if along:
        joined.narrow(dim, start, piece.shape[dim]).copy_(along[0])
    if len(varied(joined)) > 1:
        labels.choices.append(joined)
    labels.buffers[buffer] += 1
    labels.put(buffer, [joined, *tied], is_data=labels.any_data((buffer, source)))
    labels.put(piece, planes, is_data=labels.is_data(source))
    return True


def _buffer_of(labels: Labels, piece: Tensor) -> Tensor | None:
    """The buffer of which `piece` is a part along one dimension, if nothing else shares it."""
    shared = labels.sharing(piece)
    if len(shared) != 1 or shared[0] not in labels.buffers:
        return None
    (buffer,) = shared
    if piece.stride() != buffer.stride() or piece.ndim != buffer.ndim:
        return None
    different = [d for d in range(piece.ndim) if piece.shape[d] != buffer.shape[d]]
    return buffer if len(different) == 1 else None


def _is_fresh(labels: Labels, plane: Tensor) -> bool:
    return bool((entries(plane) >= labels.first_fresh).any())


def _written(planes: list[Tensor], buffer: Tensor, dim: int) -> Tensor:
    """A plane over `dim` and what else these vary along, with what the first one says so far."""
    shape = [
        buffer.shape[d] if d == dim or any(d in varied(plane) for plane in planes) else 1
        for d in range(buffer.ndim)
    ]
    whole = [plane for plane in planes if plane.shape[dim] == buffer.shape[dim]][:1]
    return whole[0].expand(shape).clone() if whole else torch.full(shape, -1)
