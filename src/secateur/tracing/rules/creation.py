"""Tensors that a model makes of nothing."""

from __future__ import annotations

from secateur.tracing.labels import Labels
from secateur.tracing.rules.call import Call

ZEROS = ("zeros", "new_zeros")
CONSTANTS = ("ones", "full", "empty", "empty_strided", "new_ones", "new_full", "new_empty",
             "new_empty_strided")  # fmt: skip


def zeros(labels: Labels, call: Call) -> None:
    """Zeros (the state that a recurrent network starts from) can follow the axes that they meet.

    They get labels of their own, which no parameter has. Whether the module really makes fewer of
    them when an axis shrinks, the trial removal shows.
    """
    for out in call.outputs:
        planes = labels.fresh(out) if out.is_floating_point() else []
        labels.put(out, planes, is_data=False)
        labels.buffers[out] = 0


def constants(labels: Labels, call: Call) -> None:
    """Other constants are nobody's, whoever is asked for their type."""
    for out in call.outputs:
        labels.put(out, [], is_data=False)
        labels.buffers[out] = 0
