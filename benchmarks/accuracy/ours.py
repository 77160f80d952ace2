"""Our method, and what it is made of: the dense network, and pruning at once instead of slowly."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import secateur as sc
from accuracy.method import method
from accuracy.run import Run
from secateur.optim.importance import Curvature

BATCHES_SEEN = 50


@method("dense")
def dense(run: Run) -> nn.Module:
    """No budget."""
    run.train(run.optimizer())
    return run.model


@method("secateur")
def firm(
    run: Run,
    *,
    freeze: float | None = None,
    power: float | None = None,
    share: float | None = None,
    at_least: int = 1,
    **options: Any,
) -> nn.Module:
    """The firm homotopy with default settings; no knob is tuned."""
    schedule = sc.Homotopy(run.steps, freeze=freeze, power=power, share=share)
    budget = sc.Budget(**run.amounts, at_least=at_least)
    optimizer = sc.Proximal(run.optimizer(), run.groups, budget, schedule=schedule, **options)
    run.train(optimizer)
    return run.small()


@method(
    "secateur, optimizer's geometry",
    fits=lambda run: isinstance(run.optimizer(), torch.optim.AdamW),
)
def firm_in_geometry(run: Run) -> nn.Module:
    """The same, where distances are measured as Adam measures them."""
    return firm(run, geometry="optimizer")


@method("train, prune, fine-tune", knobs=[{"importance": 1.0}, {"importance": "layer"}])
def one_shot(run: Run, *, importance: Any) -> nn.Module:
    """Nothing presses; the groups are cut at once where our method has chosen, by norms."""
    run.begin("dense", run.optimizer())
    return run.cut(run.choice, importance)


@method("train, prune by curvature, fine-tune")
def one_shot_by_curvature(run: Run) -> nn.Module:
    """The same by our importance: gradients of 50 batches, on which nothing is trained."""
    run.begin("dense", run.optimizer())
    seen = Curvature(run.groups)
    run.model.train()
    for number in range(run.choice - BATCHES_SEEN, run.choice):
        run.model.zero_grad()
        run.task.loss(run.model, run.batch(max(0, number))).backward()
        seen.learn(seen.look(run.groups))
    run.model.eval()
    norms = run.groups.norms().cpu().double().numpy()
    return run.cut(run.choice, torch.from_numpy(seen(norms).copy()))
