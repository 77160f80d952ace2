"""Gradients are looked at before anything is changed.

In: an optimizer's param_groups. Out: nothing, or an error that names what holds NaN or inf.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def refuse_bad(
    param_groups: Iterable[Mapping[str, Any]], named: Iterable[tuple[str, Tensor]], where: str
) -> None:
    """Refuse gradients that hold NaN or inf.

    Args:
        param_groups: an optimizer's.
        named: names and parameters, as many as are known; read only to complain.
        where: how the message begins, such as "step 7".

    Raises:
        FloatingPointError: a gradient holds NaN or inf; it names the first three parameters.
    """
    parameters = [p for group in param_groups for p in group["params"] if p.grad is not None]
    grads = [_values(p.grad) for p in parameters]
    if not grads:
        return
    norms = [norm.to(grads[0].device, torch.float32) for norm in torch._foreach_norm(grads)]  # pyright: ignore
    if bool(torch.isfinite(torch.stack(norms)).all()):
        return  # the usual case; a norm may overflow where no gradient does, so look closer now
    names = {id(parameter): name for name, parameter in named}
    bad = [
        names.get(id(p), f"a parameter of shape {tuple(p.shape)}")
        for p, grad in zip(parameters, grads, strict=True)
        if not bool(torch.isfinite(grad).all())
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise FloatingPointError(
            f"{where}: NaN or inf in the gradient of {', '.join(bad[:3])}{more}. "
            "Lower the learning rate or clip gradients; with fp16, use a GradScaler"
        )


def _values(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad
