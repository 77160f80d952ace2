"""What is learned: data, a network, its groups, the way of training that suits it, and budgets.

In: nothing but a name. Out: a `Task`; every method gets the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import secateur as sc

Batch = tuple[Tensor, ...]  # the network's inputs, then the target


@dataclass(frozen=True)
class Split:
    """Rows to train on, to choose knobs on, and to test on: tensors of equal length each."""

    train: Batch
    validation: Batch
    test: Batch

    @property
    def parts(self) -> tuple[Batch, Batch, Batch]:
        """All three, in this order."""
        return self.train, self.validation, self.test


@dataclass(frozen=True)
class Task:
    """One thing to learn, the same for every method.

    Attributes:
        name: in results.
        load: makes the data.
        network: makes the network; called right after the seed is set.
        group: (model, example) -> the groups that live and die together.
        optimizer: parameters -> the optimizer that trains the dense network.
        loss: (model, batch) -> the mean loss.
        score: (model, batch) -> the mean of what is reported.
        measure: what `score` is called.
        budgets: name -> amounts of a `secateur.Budget`.
        study: the budget at which settings of ours and ideas are tried.
        epochs, batch: how long, and how many rows at once.
        logits: (model, batch) -> the network's logits, classes last.
        warm_up: the share of the steps in which the learning rate rises.
        augment: (batch, generator) -> the batch as it is trained on.
        pretrained: whether the network starts from real weights.
        lower: whether a lower score is the better one.
    """

    name: str
    load: Callable[[], Split]
    network: Callable[[], nn.Module]
    group: Callable[[nn.Module, Any], sc.Groups]
    optimizer: Callable[[Any], Optimizer]
    loss: Callable[[nn.Module, Batch], Tensor]
    score: Callable[[nn.Module, Batch], float]
    measure: str
    budgets: Mapping[str, Mapping[str, Any]]
    study: str
    epochs: int
    batch: int
    logits: Callable[[nn.Module, Batch], Tensor] = lambda model, batch: model(batch[0])
    warm_up: float = 0.0
    augment: Callable[[Batch, torch.Generator], Batch] = lambda batch, generator: batch
    pretrained: bool = False
    lower: bool = False

    def rate(self, step: int, steps: int) -> float:
        """The learning rate's factor in a step, from 0: up in a line, down along a cosine."""
        rise = self.warm_up * steps
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


TASKS: dict[str, Callable[[], Task]] = {}


def task(make: Callable[[], Task]) -> Callable[[], Task]:
    """Register what makes a task, under the function's name with dashes."""
    TASKS[make.__name__.replace("_", "-")] = make
    return make
