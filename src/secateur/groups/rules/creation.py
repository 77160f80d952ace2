"""Tensors that a model makes of nothing."""

from __future__ import annotations

from secateur.groups.labels import Labels
from secateur.groups.rules.call import Call, rule

ZEROS = ("zeros", "new_zeros")


def zeros(labels: Labels, call: Call) -> None:
    """Zeros (the state that a recurrent network starts from) can follow the axes that they meet.

    They get labels of their own, which no parameter has. Whether the module really makes fewer of
    them when an axis shrinks, the trial removal shows.
    """
    for out in call.outputs:
        planes = labels.fresh(out) if out.is_floating_point() else []
        labels.put(out, planes, is_data=False)


@rule("new_ones", "new_full", "new_empty", "new_empty_strided")
def _like_nothing(labels: Labels, call: Call) -> None:
    """Only the type comes from the tensor that is asked; other constants are nobody's."""
    for out in call.outputs:
        labels.put(out, [], is_data=False)
