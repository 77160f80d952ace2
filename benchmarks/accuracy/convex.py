"""The paper's method and what it compares itself with: convex penalties with a lambda.

None of them ends at a budget: lambda decides how many groups are zero. At 60% of the run, where our
method has chosen, each is cut to the budget and trained to the end, so that sizes are comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import secateur as sc
from accuracy.method import method
from accuracy.run import Run, Step
from accuracy.task import Batch
from baselines.group_lasso import GroupLasso
from baselines.hspg import HSPG
from baselines.svrg import ProxSVRG
from secateur.budget import UniformAllowance

SGD_RATE = 0.05  # the learning rate that the lambdas here are meant for
RATES = [{"lam": lam, "rate": 5} for lam in (0.001, 0.003, 0.01, 0.03, 0.1)]


def by_sgd(run: Run) -> bool:
    """Whether plain gradient steps suit the task: those below are not made for Adam's."""
    return isinstance(run.optimizer(), torch.optim.SGD)


def plain_rate(run: Run) -> float:
    """The learning rate of the task's optimizer; without its momentum, other rates may suit."""
    return float(run.optimizer().param_groups[0]["lr"])


def pull(run: Run, lam: float) -> float:
    """Lambda for the task's optimizer: it counts times the learning rate, and Adam's are small."""
    return lam if by_sgd(run) else lam * SGD_RATE / plain_rate(run)


def levels(run: Run) -> tuple[UniformAllowance, float]:
    """One level k_l a layer, and k / m."""
    allowance = sc.Budget(**run.amounts, per_layer=True).on(run.groups)
    assert isinstance(allowance, UniformAllowance)
    return allowance, float(allowance.levels.sum() / len(run.groups))


@method("WGSEF, convex", knobs=[{"lam": lam} for lam in (0.03, 0.1, 0.3, 1.0, 3.0)])
def envelope(run: Run, *, lam: float) -> nn.Module:
    """The paper's: one level k_l a layer, lambda in proportion to k / m, proximal SGD."""
    budget = sc.Budget(**run.amounts, per_layer=True)
    strength = pull(run, lam) * levels(run)[1]
    optimizer = sc.Proximal(
        run.optimizer(), run.groups, budget, penalty="envelope", lam=strength, importance=1.0
    )
    run.train(optimizer, last=run.choice)
    return run.cut(run.choice)


@method(
    "WGSEF, half-space",
    knobs=[{"lam": lam, "rate": 5} for lam in (0.003, 0.01, 0.03, 0.1, 0.3)],
    fits=by_sgd,
)
def envelope_half_space(run: Run, *, lam: float, rate: float) -> nn.Module:
    """The same penalty by half-space steps in the second half of the time until the cut."""
    optimizer = EnvelopeHSPG(run, lr=rate * plain_rate(run), lam=lam, switch=run.choice // 2)
    run.train(optimizer, last=run.choice)
    return run.cut(run.choice)


class EnvelopeHSPG(HSPG):
    """Half-space steps for the envelope, one level a layer, instead of the group lasso."""

    def __init__(self, run: Run, *, lr: float, lam: float, switch: int) -> None:
        self.allowance, share = levels(run)
        options = {"lr": lr, "lam": lam * share, "switch": switch}
        super().__init__(run.model.parameters(), run.groups, **options)

    def _shrunk(self, norms: np.ndarray, step: float) -> np.ndarray:
        return np.concatenate(
            [sc.envelope.prox(part, k, step=step).numpy() for part, k in self._layers(norms)]
        )

    def _pull(self, norms: np.ndarray) -> np.ndarray:
        kept = [sc.envelope.multipliers(part, k, step=0.0) for part, k in self._layers(norms)]
        return np.divide(1, u := torch.cat(kept).numpy(), out=np.zeros(len(u)), where=u > 0)

    def _layers(self, norms: np.ndarray) -> Iterator[tuple[Tensor, float]]:
        for layer, level in zip(self.allowance.layers, self.allowance.levels, strict=True):
            yield torch.from_numpy(norms[layer.span].copy()), float(level)


@method("group lasso", knobs=[{"lam": lam} for lam in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)])
def group_lasso(run: Run, *, lam: float) -> nn.Module:
    """Proximal steps with the task's optimizer."""
    optimizer = sc.Proximal(
        run.optimizer(),
        run.groups,
        run.budget,
        penalty=GroupLasso(),
        lam=pull(run, lam),
        importance=1.0,
    )
    run.begin(f"group lasso, {lam=}", optimizer)
    return run.cut(run.choice)


@method("HSPG", knobs=RATES, fits=by_sgd)
def half_space(run: Run, *, lam: float, rate: float) -> nn.Module:
    """Group lasso by half-space steps in the second half of the time until the cut."""
    optimizer = HSPG(
        run.model.parameters(),
        run.groups,
        lr=rate * plain_rate(run),
        lam=lam,
        switch=run.choice // 2,
    )
    run.begin(f"HSPG, {lam=}, {rate=}", optimizer)
    return run.cut(run.choice)


@method("Prox-SVRG", knobs=RATES, fits=by_sgd)
def variance_reduced(run: Run, *, lam: float, rate: float) -> nn.Module:
    """Group lasso by variance-reduced steps: each costs two, and an epoch one more."""
    optimizer, step = svrg(run, lam, rate)
    run.begin(f"Prox-SVRG, {lam=}, {rate=}", optimizer, step)
    return run.cut(run.choice)


def svrg(run: Run, lam: float, rate: float) -> tuple[ProxSVRG, Step]:
    """Of the group lasso, and how a step is taken; the first one of an epoch looks at all rows."""
    optimizer = ProxSVRG(
        run.model.parameters(),
        run.groups,
        run.budget,
        lr=rate * plain_rate(run),
        penalty=GroupLasso(),
        lam=lam,
    )

    def step(_: Optimizer, model: nn.Module, batch: Batch) -> None:
        if optimizer.steps_taken % run.batches == 0:
            optimizer.snapshot(full_gradient(run, optimizer, model))
        optimizer.step(gradient(run, optimizer, model, batch))

    return optimizer, step


def gradient(run: Run, optimizer: Optimizer, model: nn.Module, batch: Batch) -> Callable:
    """A closure: the gradient of one batch's loss."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = run.task.loss(model, batch)
        loss.backward()
        return loss

    return closure


def full_gradient(run: Run, optimizer: Optimizer, model: nn.Module) -> Callable:
    """A closure: the mean gradient over the training rows, not augmented."""

    def closure() -> None:
        optimizer.zero_grad()
        rows = run.split.train
        for start in range(0, run.batches * run.task.batch, run.task.batch):
            part = tuple(column[start : start + run.task.batch] for column in rows)
            (run.task.loss(model, part) / run.batches).backward()

    return closure
