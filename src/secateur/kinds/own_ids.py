"""Custom groups: any partition of any parameters, by ids."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.groups.groups import Groups
from secateur.groups.layer import Layer
from secateur.groups.member import Member
from secateur.tracing.model_checks import check_model


def custom(model: nn.Module, ids: Mapping[str, Tensor]) -> Groups:
    """Group parameters by hand: one integer id for each element, by broadcasting.

    Args:
        model: the model that owns the parameters.
        ids: parameter name -> integer tensor that broadcasts against it; equal ids, across
            parameters too, are one group; -1 is in no group. Ids are numbered 0 to m - 1.

    Returns:
        m groups. They were not traced, so they are zeroed exactly but not removed (`shrink` says
        so), and budgets on them count groups.

    Raises:
        ValueError: an unknown parameter or one that isn't floating point; ids that don't broadcast
            or aren't integers; a missing id.

    Example:
        >>> import secateur as sc
        >>> model = nn.Linear(8, 2)
        >>> groups = sc.custom(model, {"weight": torch.arange(8).reshape(1, 8) // 4})
        >>> groups.norms().shape
        torch.Size([2])
    """
    model = check_model(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    members = []
    for name, tensor in ids.items():
        if name not in parameters:
            raise ValueError(
                f"custom: {type(model).__name__} has no parameter {name!r}; "
                f"it has {', '.join(list(parameters)[:8])}"
            )
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"custom: ids of {name} must be integers, got {tensor.dtype}")
        parameter = parameters[name]
        if not parameter.is_floating_point():
            raise ValueError(
                f"custom: {name} holds {parameter.dtype}; groups are of floating point parameters"
            )
        if tensor.ndim < parameter.ndim:
            tensor = tensor.reshape((1,) * (parameter.ndim - tensor.ndim) + tuple(tensor.shape))
        members.append(Member(name, parameter, tensor.to(torch.int64)))
    used = (
        torch.cat([m.ids.reshape(-1).cpu() for m in members]).unique() if members else torch.ones(0)
    )
    used = used[used >= 0].tolist()
    if not used:
        raise ValueError(
            "custom: no parameter element is in a group (all ids are -1, or none given)"
        )
    if used != list(range(len(used))):
        missing = sorted(set(range(int(used[-1]))) - set(used))[:5]
        raise ValueError(f"custom: ids must run from 0 without gaps; missing {missing}")
    layer = Layer("custom", "custom", 0, len(used), tuple(ids))
    return Groups(tuple(members), (layer,), model=model)
