"""Train one network by one method: the part that is the same for all methods.

In: a task, a budget, a seed. Out: a `Run`, which a method takes through the steps; the same batches
in the same order, whatever it does in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

import secateur as sc
from accuracy.task import TASKS, Batch, Split, Task
from secateur.budget import AllowanceLike
from secateur.optim.importance import importance_of
from secateur.optim.penalties import Problem, Relaxation

Step = Callable[[Optimizer, nn.Module, Batch], Any]

CUT = 0.6  # the share of the steps after which methods that choose at once do so, if not told


class Collapsed(Exception):
    """A method has set a whole layer to zero, or diverged: what is left says the same to all."""


@cache
def load(name: str) -> tuple[Task, Split]:
    """A task and its data, once a process."""
    task = TASKS[name]()
    return task, task.load()


class Run:
    """One network in training.

    Args:
        task: the task's name.
        budget: the name of one of its budgets, or "dense".
        seed: of the initial weights, the order of the data and the augmentation.
        epochs: instead of the task's.
        device: where the data and the network are.
        begun: what `begin` keeps, where runs share it.
    """

    def __init__(
        self,
        task: str,
        budget: str,
        seed: int,
        epochs: int | None = None,
        device: str = "cpu",
        begun: dict[tuple[Any, ...], Any] | None = None,
    ) -> None:
        self.task, rows = load(task)
        self.device = torch.device(device)
        self.split = Split(*(tuple(c.to(device) for c in p) for p in rows.parts))
        self.seed = seed
        self.begun = {} if begun is None else begun
        self.spared = 0.0  # seconds that another run has trained for this one
        self._order: dict[int, torch.Tensor] = {}
        self.batches = len(self.split.train[0]) // self.task.batch  # in an epoch
        self.steps = (epochs or self.task.epochs) * self.batches
        self.choice = round(CUT * self.steps)  # when methods that choose at once do so
        torch.manual_seed(seed)
        self.model = self.task.network().to(self.device)
        inputs = [part[:1] for part in self.split.train[:-1]]
        self.example: Any = tuple(inputs) if len(inputs) > 1 else inputs[0]
        self.groups = self.task.group(self.model, self.example)
        counted = sc.measure(self.model, self.example, latency=False)
        self.full = {"groups": len(self.groups), "flops": counted.flops, "params": counted.params}
        self.amounts = dict(self.task.budgets.get(budget, {}))
        if budget != "dense":
            self.budget = sc.Budget(**self.amounts)
            self.allowance: AllowanceLike = self.budget.on(self.groups)

    # -- training ----------------------------------------------------------------------------------

    def batch(self, step: int) -> Batch:
        """The rows of one step, counted from 0, augmented."""
        epoch, place = divmod(step, self.batches)
        rows = self.order(epoch)[place * self.task.batch : (place + 1) * self.task.batch]
        generator = torch.Generator().manual_seed(1_000_000 * (self.seed + 1) + step)
        return self.task.augment(tuple(part[rows] for part in self.split.train), generator)

    def order(self, epoch: int) -> torch.Tensor:
        """Which row comes when in an epoch, drawn once."""
        if epoch not in self._order:
            generator = torch.Generator().manual_seed(1_000 * self.seed + epoch)
            rows = torch.randperm(len(self.split.train[0]), generator=generator)
            self._order = {epoch: rows}
        return self._order[epoch]

    def optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The task's own, fresh."""
        return self.task.optimizer((model or self.model).parameters())

    def train(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        *,
        first: int = 0,
        last: int | None = None,
        step: Step | None = None,
        after: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Take the steps from `first` to before `last`.

        Args:
            optimizer: of the model's parameters.
            model: instead of the run's.
            first, last: counted from 0 over the whole run; the learning rate goes by them.
            step: takes one step on a batch, instead of forward, backward, optimizer.step().
            after: told the number of the step that was taken.
        """
        model = model or self.model
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        model.train()
        for number in range(first, self.steps if last is None else last):
            factor = self.task.rate(number, self.steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            (step or self.one_step)(optimizer, model, self.batch(number))
            after(number)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        model.eval()

    def begin(
        self,
        way: str,
        optimizer: Optimizer,
        step: Step | None = None,
    ) -> None:
        """Train until the groups are chosen, in a way that knows of no budget.

        It comes to the same weights for every budget, and for every method that starts so: the
        first run of a task and a seed trains, those after it go on from there.

        Args:
            way: names what is done before the choice, knobs included.
            optimizer, step: as for `train`.
        """
        place = self.task.name, self.seed, self.steps, self.choice
        if any(known[:-1] != place for known in self.begun):
            self.begun.clear()
        key = (*place, way)
        if key not in self.begun:
            start = time.perf_counter()
            self.train(optimizer, last=self.choice, step=step)
            state = deepcopy(self.model.state_dict())
            seconds = time.perf_counter() - start
            self.begun[key] = state, torch.get_rng_state(), seconds
            return
        state, random, self.spared = self.begun[key]
        self.model.load_state_dict(state)
        torch.set_rng_state(random)
        self.model.eval()

    def one_step(self, optimizer: Optimizer, model: nn.Module, batch: Batch) -> None:
        """Forward, backward, step."""
        optimizer.zero_grad()
        self.task.loss(model, batch).backward()
        optimizer.step()

    # -- choosing ----------------------------------------------------------------------------------

    def worth(self, importance: Any = 1.0) -> np.ndarray:
        """What a method that chooses at once compares: norms per cost."""
        norms = self.groups.norms().cpu().double().numpy()
        importance = importance_of(importance, self.groups)(norms)
        whole = Relaxation(np.ones(len(norms)))
        return Problem(self.allowance, norms, importance, whole).saliency()

    def keep(self, kept: np.ndarray) -> None:
        """Set all other groups to zero."""
        self.groups.scale_(torch.from_numpy(kept.astype(float)).to(self.device))

    def small(self) -> nn.Module:
        """The network without its zero groups."""
        return sc.shrink(self.model, self.groups)

    def cut(self, first: int, importance: Any = 1.0) -> nn.Module:
        """Choose within the budget, shrink, train the rest of the run."""
        alive = self.groups.alive()
        worth = self.worth(importance)
        whole = all(alive[part.span].any() for part in self.groups.layers)
        if not whole or not np.isfinite(worth).all():
            raise Collapsed
        self.keep(self.allowance.choose(worth))
        small = self.small()
        self.train(self.optimizer(small), small, first=first)
        return small

    # -- what came out -----------------------------------------------------------------------------

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Score, sizes, and what was asked and reached, counted on the network itself."""
        counted = sc.measure(network, self.example, latency=False)
        found = self.scores(network) | {"params": counted.params, "flops": counted.flops}
        for measure in self.amounts:
            found |= {
                "measure": measure,
                "asked": self.asked(measure),
                "reached": self.reached(measure, network),
                "full": self.full[measure],
            }
        return found

    def asked(self, measure: str) -> int:
        """How much of a measure the budget allows."""
        amount = self.amounts[measure]
        return int(amount if isinstance(amount, int) else amount * self.full[measure])

    def reached(self, measure: str, network: nn.Module) -> int:
        """How much of it a network has, whoever made it small."""
        if measure == "groups":
            return self._units(network)
        return getattr(sc.measure(network, self.example, latency=False), measure)

    def fits(self, network: nn.Module) -> bool:
        """Whether a network, whoever made it small, is within the budget."""
        return self.over(network) <= 1

    def over(self, network: nn.Module) -> float:
        """How many times the budget a network is, by the measure that is worst."""
        return max(self.reached(measure, network) / self.asked(measure) for measure in self.amounts)

    def scores(self, network: nn.Module) -> dict[str, Any]:
        """On the test rows, and on those that knobs are chosen by."""
        network.eval()
        return {
            "score": self.score(network, self.split.test),
            "validation": self.score(network, self.split.validation),
            "steps": self.steps,
        }

    def _units(self, network: nn.Module) -> int:
        """The width of what the layers of groups are, whoever made them narrow."""
        names = [f"{part.name}.weight" for part in self.groups.layers]
        return sum(len(network.get_parameter(name)) for name in names)

    @torch.no_grad()
    def score(self, network: nn.Module, rows: Batch) -> float:
        """The mean of the task's score over rows."""
        parts = list(self._parts(rows, 500))
        total = sum(self.task.score(network, part) * len(part[0]) for part in parts)
        return total / len(rows[0])

    @staticmethod
    def _parts(rows: Batch, size: int) -> Iterator[Batch]:
        for start in range(0, len(rows[0]), size):
            yield tuple(part[start : start + size] for part in rows)
