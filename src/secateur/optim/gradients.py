"""Gradients are looked at before anything is changed.

In: an optimizer's param_groups. Out: what an importance learns of them, or an error that names what
holds NaN or inf. Where parameters are split over processes, all come to the same conclusion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from secateur.groups import Groups
from secateur.groups.batched import all_finite
from secateur.optim.importance import Importance
from secateur.utils.distributed import any_rank, local, sum_gradient_


def look(
    param_groups: Iterable[Mapping[str, Any]],
    groups: Groups,
    where: str,
    importance: Importance | None,
) -> Tensor | None:
    """What an importance sees in the gradients, (m,), once they are known to be good.

    Raises:
        FloatingPointError: a gradient holds NaN or inf.
        TypeError: that of a grouped parameter is sparse.
    """
    named = [(member.name, member.parameter) for member in groups.members]
    sum_up_(param_groups)
    refuse_sparse(named)
    seen = None if importance is None else importance.look(groups)
    good: Container[int] = ()  # what was seen stands for those that have every element in a group
    if seen is not None and bool(seen.isfinite().all()):
        good = {id(member.parameter) for member in groups.members if not member.has_gaps}
    refuse_bad(param_groups, named, where, good)
    return seen


def watched(closure: Callable[[], Any], after: Callable[[int], None]) -> Callable[[], Any]:
    """The closure, with `after(number)` after each evaluation, counted from 1."""
    numbers = itertools.count(1)

    def evaluate() -> Any:
        with torch.enable_grad():
            loss = closure()
        after(next(numbers))
        return loss

    return evaluate


def refuse_bad(
    param_groups: Iterable[Mapping[str, Any]],
    named: Iterable[tuple[str, Tensor]],
    where: str,
    good: Container[int] = (),
) -> None:
    """Refuse gradients that hold NaN or inf.

    Args:
        param_groups: an optimizer's.
        named: names and parameters, as many as are known; read only to complain.
        where: how the message begins, such as "step 7".
        good: ids of parameters whose gradients are known to be finite; the same on all processes.

    Raises:
        FloatingPointError: a gradient holds NaN or inf; it names the first three parameters.
    """
    everything = [p for group in param_groups for p in group["params"]]
    parameters = [p for p in everything if p.grad is not None]
    unknown = [_values(p.grad) for p in parameters if id(p) not in good]
    if not any_rank(_looks_bad(unknown), everything):
        return  # the usual case; a norm may overflow where no gradient does, so look closer now
    names = {id(parameter): name for name, parameter in named}
    bad = [
        names.get(id(p), f"a parameter of shape {tuple(p.shape)}")
        for p in parameters
        if not bool(torch.isfinite(_values(p.grad)).all())
    ]
    if any_rank(bool(bad), everything):
        bad = bad or ["a part that another process holds"]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise FloatingPointError(
            f"{where}: NaN or inf in the gradient of {', '.join(bad[:3])}{more}. "
            "Lower the learning rate or clip gradients; with fp16, use a GradScaler"
        )


def any_gradient(parameters: Iterable[Tensor]) -> bool:
    """Whether the gradient of any of them is other than 0, in the part that is here."""
    grads = (_values(p.grad) for p in parameters if p.grad is not None)
    return any(bool(grad.any()) for grad in grads)


def refuse_no_gradient(step: int) -> NoReturn:
    """Refuse to choose groups that nothing is known of.

    Raises:
        RuntimeError: always; it names the likely causes.
    """
    raise RuntimeError(
        f"step {step} would choose which groups stay, and no gradient of theirs has been seen up "
        "to here; nothing was chosen. Does backward() run before each optimizer.step(), and "
        "zero_grad() not between them? Does it reach the model that the groups were made of, or a "
        "copy (groups.on(model)), or only parameters in no group? Were steps taken that only "
        "accumulate, or that a GradScaler skipped? To choose by norms alone: optimizer.freeze_()"
    )


def sum_up_(param_groups: Iterable[Mapping[str, Any]]) -> None:
    """Sum up the gradients that tensor parallel left as one summand a process."""
    for group in param_groups:
        for parameter in group["params"]:
            sum_gradient_(parameter)


def refuse_sparse(named: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse sparse gradients of these names and parameters.

    Raises:
        TypeError: it names the first that is sparse.
    """
    for name, parameter in named:
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise TypeError(
                f"the gradient of {name} is sparse, and {name} is grouped: groups need dense "
                "gradients; use sparse=False in nn.Embedding, or ignore= the module"
            )


def _looks_bad(grads: list[Tensor]) -> bool:
    """Whether any gradient holds NaN or inf, or its norm is (only where it has to be a norm)."""
    if not grads:
        return False
    if (finite := all_finite(grads)) is not None:
        return not finite
    norms = [norm.to(grads[0].device, torch.float32) for norm in torch._foreach_norm(grads)]  # pyright: ignore
    return not bool(torch.isfinite(torch.stack(norms)).all())


def _values(grad: Tensor) -> Tensor:
    """The numbers in a gradient, those that this process holds."""
    return grad.coalesce().values() if grad.is_sparse else local(grad)
