"""Ideas that might beat the firm homotopy as it is; what they gained is in docs/accuracy.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur as sc
from accuracy.method import method
from accuracy.run import Run
from accuracy.task import Batch
from baselines.group_lasso import shrink
from secateur.optim.importance import Curvature, above_zero
from secateur.optim.rates import common_rate
from secateur.train.distill import Distill


def proximal(run: Run, budget: Any = None, **options: Any) -> sc.Proximal:
    """With default settings."""
    return sc.Proximal(
        run.optimizer(), run.groups, budget or run.budget, steps=run.steps, **options
    )


def choice(optimizer: sc.Proximal) -> int:
    """The number of steps after which the groups are chosen."""
    assert isinstance(optimizer.schedule, sc.Homotopy)
    return optimizer.schedule.freeze_steps[0]


@method("idea: distilled from the dense phase", knobs=[{"snapshot": 0.5}, {"snapshot": 0.6}])
def distilled(run: Run, *, snapshot: float) -> nn.Module:
    """From a share of the run on, half of the loss is to agree with the network as it was then."""
    start = round(snapshot * run.steps)
    optimizer = proximal(run)
    run.train(optimizer, last=start)
    distill = Distill.start(run.model, dim=-1)
    distill.teacher.eval()

    def step(optimizer: Optimizer, model: nn.Module, batch: Batch) -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            told = run.task.logits(distill.teacher, batch)
        agreement = distill.distance(run.task.logits(model, batch), told)
        torch.lerp(run.task.loss(model, batch), agreement, distill.weight).backward()
        optimizer.step()

    run.train(optimizer, first=start, step=step)
    return run.small()


@method("idea: weights averaged after the freeze")
def averaged(run: Run) -> nn.Module:
    """An exponential mean of the weights, and of the running statistics, ends the run."""
    optimizer = proximal(run)
    chosen = choice(optimizer)
    run.train(optimizer, last=chosen)
    mean = AveragedModel(run.model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    run.train(optimizer, first=chosen, after=lambda step: mean.update_parameters(run.model))
    run.model.load_state_dict(mean.module.state_dict())
    return run.small()


@method("idea: by way of a larger budget")
def staged(run: Run) -> nn.Module:
    """Two stages: first to the geometric mean of the full network and the budget."""
    ((measure, amount),) = run.amounts.items()
    full = len(run.groups) if measure == "groups" else 1.0
    between = (full * amount) ** 0.5
    first = sc.Budget(**{measure: round(between) if measure == "groups" else between})
    run.train(proximal(run, [first, run.budget]))
    return run.small()


@method("idea: a second warm learning rate")
def warm_again(run: Run) -> nn.Module:
    """The learning rate falls to zero at the freeze, and once more, from half, to the end."""
    optimizer = proximal(run)
    chosen = choice(optimizer)
    rates = [float(group["lr"]) for group in optimizer.param_groups]

    def factor(step: int) -> float:
        if step < chosen:
            return run.task.rate(step, chosen)
        return 0.5 * run.task.rate(step - chosen, run.steps - chosen)

    def step(optimizer: Optimizer, model: nn.Module, batch: Batch) -> None:
        nonlocal taken
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(taken)
        taken += 1
        run.one_step(optimizer, model, batch)

    taken = 0
    run.train(optimizer, step=step)
    return run.small()


class PerCost(Curvature):
    """The default importance, so that worth is a^2 d / c^exponent instead of a^2 d / c."""

    def __init__(self, optimizer: sc.Proximal, exponent: float) -> None:
        super().__init__(optimizer.groups)
        self.optimizer, self.exponent = optimizer, exponent

    def __call__(self, norms: np.ndarray) -> np.ndarray:
        costs = self.optimizer.allowance.slopes(self.optimizer.multipliers.numpy())
        return super().__call__(norms) * above_zero(costs) ** (1 - self.exponent)


@method("idea: worth per power of the cost", knobs=[{"exponent": 0.5}, {"exponent": 1.5}])
def per_cost(run: Run, *, exponent: float) -> nn.Module:
    """Below 1 dear groups are spared; where all cost the same, it is the default."""
    optimizer = proximal(run)
    optimizer.importance = PerCost(optimizer, exponent)
    run.train(optimizer)
    return run.small()


class Estimated(Curvature):
    """The default importance by another estimate of a group's curvature x' F x.

    "mean": F is a group's mean squared gradient times the identity, as if the loss curved alike in
    all directions. "along": F has what is off its diagonal too, so that x' F x is the mean of
    (g . x)^2, which is the square of what a batch's loss changes by to first order.
    """

    def __init__(self, groups: sc.Groups, of: str) -> None:
        super().__init__(groups)
        self.of = of
        ones = [torch.ones_like(member.parameter) for member in groups.members]
        self.sizes = groups.squares(ones).cpu().double()
        places = torch.arange(len(groups) + 1)  # the last one is for what is in no group
        self.places = [m.spread(places).expand_as(m.parameter) for m in groups.members]

    def look(self, groups: sc.Groups) -> torch.Tensor:
        if self.of == "mean":
            squares = groups.squares([member.parameter.grad for member in groups.members])
            return squares.cpu() / self.sizes
        total = torch.zeros(len(groups) + 1, dtype=torch.float64)
        for place, member in zip(self.places, groups.members, strict=True):
            if (grad := member.parameter.grad) is not None:
                products = (member.parameter.detach() * grad).double()
                total.index_add_(0, place.reshape(-1), products.reshape(-1))
        squares = groups.squares().cpu()
        return total[:-1].square_() / torch.where(squares > 0, squares, 1)


@method("idea: another curvature", knobs=[{"of": "mean"}, {"of": "along"}])
def estimated(run: Run, *, of: str) -> nn.Module:
    """By less, or by more, than the diagonal."""
    optimizer = proximal(run)
    optimizer.importance = Estimated(optimizer.groups, of)
    run.train(optimizer)
    return run.small()


class Falling(sc.Proximal):
    """The hardness stays as it is; the level falls from all to the budget instead."""

    hardness_all_along = 0.1
    fallen = 0.9  # of the time until the freeze

    def _prox_(self) -> None:
        last = self._allowances[0]
        passed = self.steps_taken / (self.fallen * choice(self))
        above = max(0.0, 1 - passed) ** 3
        full = {m: cost(np.ones(len(self.groups))) for m, cost in last.costs.items()}
        limits = {m: limit + (full[m] - limit) * above for m, limit in last.limits.items()}
        self.allowance = replace(last, limits=limits)
        super()._prox_()
        self.allowance = last


class Both(sc.Proximal):
    """The group lasso shrinks all groups beside, also those that stay."""

    lam_beside = 0.03

    def _prox_(self) -> None:
        super()._prox_()
        norms = self._norms()
        step = self.lam_beside * common_rate(self.optimizer, self.groups, "group lasso")
        self.groups.scale_(torch.from_numpy(shrink(norms, np.ones_like(norms), step)))


@method("idea: with a group lasso beside")
def with_lasso(run: Run) -> nn.Module:
    """A mild lambda, the same for all tasks."""
    run.train(Both(run.optimizer(), run.groups, run.budget, steps=run.steps))
    return run.small()


@method("idea: the level falls, not the pressure rises")
def falling(run: Run) -> nn.Module:
    """As usual pruning schedules go: a few groups at a time, the weakest of all first."""

    class Flat(sc.Homotopy):
        def __call__(self, step: int) -> float:
            return 1.0 if step >= self.freeze_steps[0] else Falling.hardness_all_along

    optimizer = Falling(run.optimizer(), run.groups, run.budget, schedule=Flat(run.steps))
    run.train(optimizer)
    return run.small()
