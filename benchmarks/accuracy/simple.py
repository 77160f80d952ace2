"""What a method has to beat: thresholds from the first step on, random groups, a thin network."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import secateur as sc
from accuracy.method import method
from accuracy.run import Run


@method("hard threshold", knobs=[{"importance": 1.0}, {"importance": "layer"}])
def hard(run: Run, *, importance: Any) -> nn.Module:
    """Iterative hard thresholding: after every step, all but the best groups are set to zero."""

    def threshold(step: int) -> None:
        run.keep(run.allowance.choose(run.worth(importance)))

    run.train(run.optimizer(), last=run.choice, after=threshold)
    return run.cut(run.choice, importance)


@method("random groups")
def random(run: Run) -> nn.Module:
    """Groups drawn at the start, whatever layer they are of; the rest is trained."""
    return start_small(run, _drawn(run, run.budget))


@method("uniformly thin")
def thin(run: Run) -> nn.Module:
    """The same share of every layer from the start: a thinner network, trained."""
    return start_small(run, _drawn(run, sc.Budget(**run.amounts, per_layer=True)))


def start_small(run: Run, kept: np.ndarray) -> nn.Module:
    """A network of these groups alone before it is trained, its weights drawn for its widths."""
    run.keep(kept)
    small = run.small()
    if not run.task.pretrained:
        for module in small.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    run.train(run.optimizer(small), small)
    return small


def _drawn(run: Run, budget: sc.Budget) -> np.ndarray:
    """Groups within the budget: the best of pretrained layers, else by lot."""
    worth = np.random.default_rng(run.seed).random(len(run.groups))
    if run.task.pretrained and budget.per_layer:
        worth = run.worth()
    return budget.on(run.groups).choose(worth)
