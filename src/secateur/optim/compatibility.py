"""What may be put together in a `Proximal`, and what is refused by name.

In: its arguments as given. Out: the allowances and the schedule, or an error that says what to do.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch.optim import Optimizer, SparseAdam

from secateur.budget import AllowanceLike, Budget
from secateur.groups import Groups
from secateur.groups.trainers import trainers
from secateur.optim.chained import parts_of, wrapped_in
from secateur.optim.penalties import Penalty
from secateur.optim.schedules import Constant, Homotopy
from secateur.optim.state import Wrapper
from secateur.surgery.leftover_zeros import severed
from secateur.utils.distributed import is_dtensor

FEW = 24  # groups, such as the layers of a network


def check_parts(optimizer: Any, groups: Any, budgets: tuple[Any, ...], every: int) -> None:
    """Refuse parts of the wrong type; an optimizer that is a Proximal itself, too."""
    if not isinstance(optimizer, Optimizer) or any(
        isinstance(part, Wrapper) for part in wrapped_in(optimizer)
    ):
        raise TypeError(
            "Proximal wraps an optimizer such as torch.optim.SGD(model.parameters(), lr=0.1), got "
            f"{type(optimizer).__name__}; several budgets in one run are a list"
        )
    wrong = [budget for budget in budgets if not isinstance(budget, Budget)]
    if not isinstance(groups, Groups) or wrong or not budgets:
        found = ", ".join(type(budget).__name__ for budget in wrong or budgets) or "nothing"
        raise TypeError(
            "Proximal(optimizer, groups, budget): expected Groups and a Budget (or a list of "
            f"them), got {type(groups).__name__} and {found}"
        )
    if not isinstance(every, Integral) or every < 1:
        raise ValueError(f"every={every!r}: expected a number of steps, an integer of 1 or more")
    _check_flags(optimizer)
    optimized = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    missing = [m.name for m in groups.members if id(m.parameter) not in optimized]
    if missing and any(is_dtensor(p) for p in optimized.values()):
        raise ValueError(
            f"{', '.join(missing[:5])}: these groups were made before the model was split over "
            "processes, and its parameters are others now; take them along: "
            "groups = groups.on(model), before the first forward pass"
        )
    if missing:
        raise ValueError(
            f"{', '.join(missing[:5])} {'is' if len(missing) == 1 else 'are'} grouped but not in "
            "the optimizer; pass all of the model's parameters to it, or ignore= their modules. If "
            "the model's parameters were replaced since (load_state_dict(assign=True), to_empty), "
            "take the groups along: groups = groups.on(model)"
        )
    constant = [m.name for m in groups.members if not m.parameter.requires_grad]
    if constant:
        raise ValueError(
            f"{', '.join(constant[:5])} {'is' if len(constant) == 1 else 'are'} grouped but frozen "
            "(requires_grad=False): what fades there could never come back. Make the groups anew, "
            "which leaves frozen layers out; or let them learn"
        )


def refuse_second(optimizer: Optimizer) -> None:
    """Refuse an optimizer that another Proximal steps, unless that one has chosen its groups."""
    mine = {id(part) for part in wrapped_in(optimizer)}

    def others() -> list[str]:
        return [
            trainer.unchosen
            for trainer in trainers()
            if isinstance(trainer, Wrapper) and trainer.unchosen
            if mine.intersection(map(id, wrapped_in(trainer.optimizer)))
        ]

    if others():
        gc.collect()  # a scheduler's hold on its optimizer is a circle
    if found := others():
        raise ValueError(
            f"this {type(optimizer).__name__} is in a Proximal already, which has not chosen its "
            f"groups ({found[0]}): both would press on it. For another run make the optimizer "
            "anew, or end the other one first: its freeze_(), or del it"
        )


def refuse_severed(groups: Groups) -> None:
    """Refuse layers that are zero from the start, which no budget could have cut so far."""
    if not groups.on_meta and (names := severed(groups, ~groups.alive().cpu().numpy())):
        raise ValueError(
            f"{names}: every group is zero before training, and a budget keeps at least one a "
            "layer. Were weights loaded? Layers that begin at zero on purpose can be left out of "
            "the groups with ignore=, or take a step of the plain optimizer first"
        )


def _check_flags(optimizer: Optimizer) -> None:
    """Refuse what can't be followed by a proximal step; foreach, fused and capturable can."""
    if any(isinstance(part, SparseAdam) for part in parts_of(optimizer)):
        raise TypeError(
            "SparseAdam takes sparse gradients only, and groups need dense ones; use Adam, and "
            "sparse=False in nn.Embedding"
        )
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise ValueError(
            f"{type(optimizer).__name__}(differentiable=True): gradients can't flow through a step "
            "that chooses groups; use differentiable=False"
        )


def descending(budgets: Sequence[Budget], groups: Groups) -> tuple[AllowanceLike, ...]:
    """The budgets in the units of the groups; each must be smaller than the one before."""
    found = tuple(budget.on(groups) for budget in budgets)
    for (one, before), (other, after) in itertools.pairwise(zip(budgets, found, strict=True)):
        same = before.limits.keys() == after.limits.keys()
        falls = same and all(after.limits[m] <= limit for m, limit in before.limits.items())
        if not falls or after.limits == before.limits:
            raise ValueError(
                f"several budgets of one run descend, in the same measures: after {one} comes a "
                f"smaller one, not {other}"
            )
    return found


def felt_share(allowance: AllowanceLike, groups: Groups) -> float:
    """How much of the network a budget keeps, for `Homotopy`; 0 where there are only `FEW` groups.

    Each of these is a large part of the network, which needs time to recover from losing one.
    """
    return allowance.share if len(groups) > FEW else 0.0


def schedule_for(
    penalty: Penalty,
    steps: int | None,
    schedule: Any,
    lam: float | None,
    allowances: Sequence[AllowanceLike],
    groups: Groups,
) -> Homotopy | Constant:
    """The schedule that these arguments of `Proximal` ask for, as suits the last of the budgets."""
    stages = len(allowances)
    if schedule is not None and (steps is not None or lam is not None):
        raise ValueError("give schedule=, or steps= / lam=, not both")
    if penalty.has_lambda:
        found = Constant(lam) if lam is not None else schedule
        if not isinstance(found, Constant):
            raise ValueError(f"penalty={penalty.name!r} needs lam=, or schedule=Constant(lam)")
        if stages > 1:
            raise ValueError(
                f"penalty={penalty.name!r} reaches one budget at best; several in one run need "
                "'firm'"
            )
        if any(layer.blocks for layer in groups.layers):
            raise ValueError(
                f"penalty={penalty.name!r} has one level for all; n of every m needs the firm "
                "penalty"
            )
        return found
    if lam is not None:
        raise ValueError(
            f"lam= belongs to penalty='envelope'; the {penalty.name} penalty has no lambda to tune"
        )
    share = felt_share(allowances[-1], groups)
    if schedule is None:
        if steps is None:
            raise ValueError(
                "Proximal: say how long training is, steps=epochs * len(loader), or pass schedule="
            )
        return Homotopy(steps, stages=stages, share=share)
    if not isinstance(schedule, Homotopy):
        raise ValueError(
            f"penalty={penalty.name!r} needs a Homotopy schedule, got {type(schedule).__name__}"
        )
    if schedule.stages not in (1, stages):
        raise ValueError(f"{schedule} has {schedule.stages} stages for {stages} budgets")
    share = share if schedule.share is None else schedule.share
    return replace(schedule, stages=stages, share=share)


def refuse_capture() -> None:
    """Refuse a step while a CUDA graph is being captured."""
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "Proximal.step can't be captured in a CUDA graph: which groups stay is decided on the "
            "host. Capture the forward and the backward pass (torch.cuda.make_graphed_callables), "
            "and call step() outside of the graph"
        )
