"""`shrink`: from a network with zeros to a smaller network that computes the same.

In: a trained model and its groups. Out: a small copy, checked against the zeroed model.
"""

from __future__ import annotations

import warnings

import numpy as np
from torch import nn

from secateur.groups import Groups
from secateur.groups.removal import remove
from secateur.groups.trial import difference, tolerance


class ShrinkError(RuntimeError):
    """The small network would not have computed what the zeroed one does; nothing was changed."""


def shrink(model: nn.Module, groups: Groups) -> nn.Module:
    """Cut the dead groups out of a copy of a model.

    A group is dead where all of its parameters are exactly zero. The small network is compared with
    `model` on the groups' example inputs and on random ones of another batch size before it is
    returned.

    Args:
        model: the trained model, or another copy of it (an average of its weights); left as it was.
        groups: its groups.

    Returns:
        A smaller module of the same class, in the same mode and on the same device. Its attribute
        `secateur` holds the plan that `save` writes down. With no dead group it is an equal copy.

    Raises:
        ShrinkError: the outputs differ by more than rounding explains.
        ValueError: the groups belong to another model, or were never traced.

    Warns:
        UserWarning: groups that are dead but couldn't be removed exactly, by layer and reason.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> groups = sc.neurons(model, torch.ones(1, 4))
        >>> _ = groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1]))
        >>> shrink(model, groups)
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    groups = groups.on(model)
    dead = ~groups.alive().cpu().numpy()
    _refuse_empty_layers(groups, dead)
    removal = remove(model, groups, dead)
    found, allowed = difference(model, removal.model, groups.example), tolerance(model)
    if not found <= allowed:
        raise ShrinkError(
            f"the small network's output differs by {found:.1e} of its scale (allowed {allowed:.0e}); "
            "the model is unchanged. Please report the model; ignore= its unusual modules meanwhile"
        )
    for layer, count, reason in removal.refused:
        warnings.warn(f"{count} dead groups of {layer} stay in the network: {reason}", stacklevel=2)
    small = removal.model
    small.secateur = removal.plan.after(getattr(model, "secateur", None))  # pyright: ignore
    return small


def _refuse_empty_layers(groups: Groups, dead: np.ndarray) -> None:
    empty = [layer.name for layer in groups.layers if dead[layer.start : layer.stop].all()]
    if empty:
        raise ValueError(
            f"every group of {', '.join(empty[:3])} is dead: the network is cut in two there. "
            "Train with Budget(at_least=1), which keeps every layer alive"
        )
