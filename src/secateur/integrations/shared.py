"""What the callback of any trainer asks of the `Proximal` that it watches.

In: the optimizer, and where its trainer is. Out: numbers to log, errors at the door, and at the end
whether the budget was reached.
"""

from __future__ import annotations

from secateur.optim import Homotopy, Proximal


def facts(optimizer: Proximal) -> dict[str, float]:
    """What to log at each step: `kept`, `hardness`, and `spent/...` for each measure."""
    spent = {f"spent/{measure}": float(cost) for measure, cost in optimizer.spent.items()}
    return {"kept": float(optimizer.kept), "hardness": optimizer.hardness, **spent}


def catch_up_(optimizer: Proximal, steps: int) -> None:
    """Count the steps that the trainer has counted and the optimizer hasn't seen: skipped ones."""
    while optimizer.steps_taken < steps:
        optimizer.skip()


def refuse_other_end(optimizer: Proximal, steps: int, remedy: str) -> None:
    """Refuse a schedule that ends before the trainer does, or after it.

    Raises:
        ValueError: the schedule's steps are not the trainer's.
    """
    schedule = optimizer.schedule
    if isinstance(schedule, Homotopy) and schedule.steps != steps:
        raise ValueError(
            f"the schedule has {schedule.steps} steps and the trainer takes {steps}; {remedy}"
        )


def refuse_other_start(optimizer: Proximal, steps: int, remedy: str) -> None:
    """Refuse an optimizer that is not where its trainer is.

    Raises:
        ValueError: they have not taken equally many steps.
    """
    if optimizer.steps_taken != steps:
        raise ValueError(
            f"the trainer has taken {steps} steps and the optimizer {optimizer.steps_taken}; to "
            f"train anew make a new trainer, to go on {remedy} a checkpoint that was saved with "
            "the optimizer"
        )


def missed(optimizer: Proximal) -> str:
    """Why the network is not at its budget at the end of training; "" where it is.

    Its norms are read, so that every process of a model that is split calls this.
    """
    schedule = optimizer.schedule
    if not isinstance(schedule, Homotopy):
        return ""
    if not optimizer.frozen or optimizer.stage < len(optimizer.budgets) - 1:
        return (
            f"training ended after {optimizer.steps_taken} of {schedule.steps} steps, before the "
            f"groups were chosen for {optimizer.budgets[-1]}: the network is not at its budget. "
            f"Stop early only after {schedule.freeze_steps[-1]} steps"
        )
    if extra := int(optimizer.groups.alive().sum()) - optimizer.kept:
        return (
            f"{extra} groups are not zero that were given up for {optimizer.budgets[-1]}: the "
            "weights are an average, or of a checkpoint from before the groups were chosen. "
            "groups.scale_(optimizer.multipliers) gives them up here too"
        )
    return ""
