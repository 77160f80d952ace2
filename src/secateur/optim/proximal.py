"""`Proximal`: any optimizer of torch, followed by the proximal step that meets the budget.

In: an optimizer, groups and a budget. Out: an optimizer for the same loop, which ends with exactly
the groups that the budget affords, all others zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.budget import Budget
from secateur.budget.words import parse_budgets
from secateur.groups import Groups
from secateur.groups.trainers import register
from secateur.optim.chained import Chained
from secateur.optim.compatibility import (
    check_parts,
    descending,
    refuse_capture,
    refuse_second,
    refuse_severed,
    schedule_for,
)
from secateur.optim.geometry import geometry_of
from secateur.optim.gradients import any_gradient, look, refuse_no_gradient, watched
from secateur.optim.importance import importance_of
from secateur.optim.penalties import Penalty, Problem, Relaxation, penalty_of
from secateur.optim.progress import Progress
from secateur.optim.rates import common_rate, is_resting
from secateur.optim.schedules import Constant, Homotopy
from secateur.optim.stationarity import stationarity
from secateur.optim.statistics import followed
from secateur.optim.support import Support
from secateur.utils.distributed import any_rank, is_dtensor


class Proximal(Progress):
    """Wrap an optimizer so that training ends exactly on a budget.

    Each step is the wrapped optimizer's, then a proximal step on the groups. With the default firm
    penalty (hardness r raised from 0 to 1 by `Homotopy`) a group of saliency
    s_j = a_j sqrt(d_j / c_j) is multiplied by

        u_j / (r + (1 - r) u_j),    u_j = clip((s_j / T - r) / (1 - r), 0, 1)

    where a_j is its norm, d_j its importance, c_j what it costs now, and the threshold T is the one
    at which the network's true cost equals the budget. Strong groups are untouched, weak ones fade
    (by a factor of 10 a step, not to 0 at once, so that they may come back). At r = 1 the set of
    groups is chosen; from then on it is fixed, dead entries stay exactly zero (their gradients and
    the optimizer's state too) and the others train on.

    By default the proximal step is Euclidean, also after an adaptive optimizer's step. With
    geometry="optimizer" it measures as that step did, with h_j the mean of the optimizer's
    preconditioner over group j: s_j = a_j sqrt(d_j h_j / c_j). (secateur.optim.geometry derives it,
    and what it makes of a penalty with a lambda.)

    With several budgets, each smaller than the one before, one run gives a network for each: when
    training has settled on a budget (`settled`), the network can be shrunk; then the next stage
    begins, and the groups that are left compete for the next budget.

    Args:
        optimizer: any optimizer of torch.optim or in its style; it owns state and param_groups. Or
            several, each of its own parameters, which step in turn (`Chained`).
        groups: which parameters live and die together; all must be in the optimizer.
        budget: what may be kept, a `Budget` or in words, "flops=25%,params=1M"; refused at once if
            it can't be reached. Or several, descending: a sequence, or "flops=50%,25%".
        steps: optimizer steps in the whole run, for the default schedule `Homotopy(steps)`.
        schedule: a `Homotopy`, or `Constant(lam)` with a penalty that has a lambda; instead of
            steps.
        penalty: "firm", or "envelope": the paper's convex penalty, which shrinks what it keeps and
            reaches the budget only if lambda is right; or a `Penalty` of your own.
        lam: short for schedule=Constant(lam).
        importance: d, "curvature" (how much the loss curves along a group, from squared gradients),
            1.0 (the paper's plain norms), "layer" (norms relative to their layer's), a number or
            tensor of shape (m,) of your own, or "auto": "curvature", but 1.0 with a lambda and in
            the optimizer's geometry.
        every: take the proximal step after every so many steps, as hard as all of them would have
            been together, and look at gradients only then; the freeze is never late.
        geometry: "euclidean", or "optimizer" for Adam, AdamW, NAdam, RMSprop and Adagrad.
        statistics: "recent" for averages of BatchNorm that keep up while the budget presses and
            begin anew at the choice (`RunningStatistics`); "model" for the model's own momentum.

    Raises:
        TypeError: parts of another type, or SparseAdam.
        ValueError: no steps, a budget out of reach, budgets that don't descend, a grouped parameter
            that isn't optimized, a layer that is all zero, an optimizer that another Proximal
            steps, or options that don't go together.

    Example:
        >>> import secateur as sc
        >>> layers = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        >>> model = torch.nn.Sequential(*layers)
        >>> groups = sc.neurons(model, torch.ones(1, 4))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=3), steps=10)
        >>> for _ in range(10):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(16, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> int(groups.alive().sum()), optimizer.kept, optimizer.hardness
        (3, 3, 1.0)

    Source: arXiv 2212.12921 (the envelope and its prox); the firm homotopy is our own.
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        groups: Groups,
        budget: Budget | str | Sequence[Budget],
        *,
        steps: int | None = None,
        schedule: Homotopy | Constant | None = None,
        penalty: str | Penalty = "firm",
        lam: float | None = None,
        importance: Any = "auto",
        every: int = 1,
        geometry: str = "euclidean",
        statistics: str = "recent",
    ) -> None:
        budget = parse_budgets([budget]) if isinstance(budget, str) else budget
        budgets = tuple(budget) if isinstance(budget, Sequence) else (budget,)
        chain = Chained(*optimizer) if isinstance(optimizer, Sequence) else optimizer
        check_parts(chain, groups, budgets, every)
        kind = penalty_of(penalty)
        learned = importance_of(importance, groups, geometry, has_lambda=kind.has_lambda)
        self.geometry = geometry_of(geometry, chain, groups)
        allowances = descending(budgets, groups)
        planned = schedule_for(kind, steps, schedule, lam, allowances, groups)
        averages = followed(statistics, groups.model, pressing=not kind.has_lambda)
        refuse_severed(groups)
        refuse_second(chain)
        super().__init__(chain, groups, budgets, allowances, planned, kind, learned, averages)
        self.every = every
        register(self)

    _seen: Tensor | None = None  # by the importance in this step, to be learned once it was taken

    # -- one step ----------------------------------------------------------------------------------

    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]  # it loses what it traces
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """The wrapped optimizer's step, then the proximal one.

        A step in which every learning rate is 0 and no gradient is other than 0 is the wrapped
        optimizer's alone and does not count: torch.distributed.checkpoint takes such steps to make
        optimizers allocate their state. Where only the learning rates are 0, it counts, but nothing
        moves until the groups are chosen. In a function under torch.compile this runs as it stands;
        what the compiler can speed up is the wrapped optimizer: compile its step before wrapping.

        Args:
            closure: computes the loss and the gradients anew, for optimizers that want it.

        Raises:
            FloatingPointError: a gradient holds NaN or inf; nothing has been changed. (An optimizer
                that calls the closure several times, LBFGS, may have moved by the later ones.)
            TypeError: the gradient of a grouped parameter is sparse.
            RuntimeError: a CUDA graph is being captured; or the groups would be chosen by this step
                and no gradient of theirs has been seen.
        """
        refuse_capture()
        if closure is not None:
            loss = self.optimizer.step(watched(closure, self._look))
        elif is_resting(self) and not any_rank(any_gradient(parts := self._parameters()), parts):
            return self.optimizer.step()
        else:
            self._look()
            loss = self.optimizer.step()
        # where none has a gradient, backward never ran; processes that share parameters agree
        known = any(p.grad is not None or is_dtensor(p) for p in self._parameters())
        self._advance(press=known and not is_resting(self))
        return loss

    def skip(self) -> None:
        """Count a step that was not taken, such as one that a GradScaler skipped.

        The groups are then chosen at the step that was announced; without this, at a later one, as
        a skipped step is not seen from here: `if scaler.get_scale() < before: optimizer.skip()`.
        """
        self._refuse_blind_choice()
        self._seen = None  # by a step that failed
        self._advance(press=False)

    def _advance(self, *, press: bool) -> None:
        """Go on by one step of the schedule; without `press`, nothing but the freeze is done."""
        self.steps_taken += 1
        self.statistics.follow_(chosen=self.frozen)
        if self._seen is not None:
            self.importance.learn(self._seen, self.every)
            self._seen = None
        if self.frozen and self.steps_taken - 1 in self.schedule.ends[:-1]:
            self._thaw()
        self._hold_()
        if not self.frozen:
            if self.schedule.hardness(self.steps_taken) >= 1:
                self.freeze_()
            elif press and self.steps_taken % self.every == 0:
                self._prox_()

    def _hold_(self) -> None:
        """Keep what is dead at zero: after every step, and at the choice."""
        if self._support is not None:
            self._support.clear_parameters_()

    def _look(self, evaluation: int = 1) -> None:
        """Refuse bad gradients, let the importance see good ones, keep the dead from moving."""
        again = f", evaluation {evaluation} of the closure" if evaluation > 1 else ""
        where = f"step {self.steps_taken + 1}{again}"
        learns = evaluation == 1 and self._will_press()
        seen = look(self.param_groups, self.groups, where, self.importance if learns else None)
        self._gradient_seen = self._gradient_seen or any_gradient(self._grouped())
        if evaluation == 1:
            self._refuse_blind_choice()
            self._seen = seen
        if self._support is not None:
            self._support.clear_gradients_()

    def _will_press(self) -> bool:
        """Whether the next step, if it counts, ends with a proximal step or with the choice."""
        due = (self.steps_taken + 1) % self.every == 0
        return (due and not self.frozen) or self._will_choose()

    def _will_choose(self) -> bool:
        """Whether the next step, if it counts, ends with the choice."""
        return not self.frozen and self.schedule.hardness(self.steps_taken + 1) >= 1

    def _refuse_blind_choice(self) -> None:
        """Nothing is chosen by a schedule alone."""
        if self._will_choose() and not any_rank(self._gradient_seen, self._parameters()):
            refuse_no_gradient(self.steps_taken + 1)

    def _grouped(self) -> list[Tensor]:
        return [member.parameter for member in self.groups.members]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    # -- the choice --------------------------------------------------------------------------------

    def freeze_(self) -> None:
        """Choose the groups now, within the budget, and keep this choice to the stage's end.

        Groups that are zero are not kept, whatever the budget. By hand it may come at any time; of
        gradients that were not seen nothing is known, and norms alone then decide.

        Warns:
            UserWarning: the budget has room for groups that are zero.
        """
        norms = self._norms()
        chosen = self.allowance.choose(self._problem(norms).saliency())
        kept = chosen & (norms > 0)
        _warn_of_zeros(int(chosen.sum() - kept.sum()), len(kept))
        self.frozen = True
        self._relaxation = Relaxation(kept.astype(float))
        self._support = Support(self.groups, kept)
        self._support.clear_state_(self.state)
        self._hold_()
        if not kept.all():
            self.statistics.begin_anew()

    def _thaw(self) -> None:
        """Begin the next stage: what is dead stays dead, what is left competes again."""
        self.frozen = False
        live = self._relaxation.multipliers > 0
        self.allowance = self._allowances[self.stage].restricted(live)

    # -- the proximal step -------------------------------------------------------------------------

    def _prox_(self) -> None:
        """Scale every group by its factor."""
        if self.schedule(self.steps_taken) > 0:
            norms = self._norms()
            factors, self._relaxation = self._press(self._problem(norms), self.every)
            self.groups.scale_(torch.from_numpy(self.penalty.spare(factors, norms)))

    def _press(self, problem: Problem, steps: int = 1) -> tuple[np.ndarray, Relaxation]:
        """The factors after so many steps, and how much of each group they keep."""
        length: float = steps
        if (penalty := self.penalty).has_lambda:
            length *= common_rate(self.optimizer, self.groups, penalty.name)
        return penalty.prox(problem, self.schedule(self.steps_taken), length)

    def _problem(self, norms: np.ndarray) -> Problem:
        """The groups with these norms, by what is known of them now."""
        geometry = self.geometry(self.optimizer, self.groups)
        return Problem(self.allowance, norms, self.importance(norms), self._relaxation, geometry)

    def _norms(self) -> np.ndarray:
        norms = self.groups.norms().cpu().double().numpy()
        finite = np.isfinite(norms)
        if not finite.all():
            raise FloatingPointError(
                f"step {self.steps_taken}: the norm of group "
                f"{self.groups.names[int(finite.argmin())]} is NaN or inf; training has diverged, "
                "lower the learning rate"
            )
        return norms

    def stationarity(self) -> float:
        """The distance to stationarity on the batch whose gradients are in place.

            || theta - prox(theta - lr * grad) || / lr

        with the penalty as hard as it is now, over the parameters that have a gradient.

        Returns:
            A number that falls towards 0 as training converges. Nothing is changed.

        Raises:
            RuntimeError: no parameter has both a gradient and a learning rate above 0.

        Source: Ghadimi, Lan and Zhang, 2016; Davis and Drusvyatskiy, 2019.
        """

        def factors_of(norms: np.ndarray) -> np.ndarray:
            if self.frozen:
                return self._relaxation.multipliers
            problem = self._problem(norms)
            if self.penalty.has_lambda:  # its geometry is that of the step, not its own
                problem = replace(problem, geometry=1.0)
            return self._press(problem)[0]

        return stationarity(self.optimizer, self.groups, factors_of)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not hooks, nor the `step` that a scheduler puts in place."""
        return {name: value for name, value in vars(self).items() if name in _COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy trains the groups that were copied with it."""
        super().__setstate__(state)
        register(self)

    def __repr__(self) -> str:
        budgets = ", then ".join(map(str, self.budgets))
        return (
            f"Proximal({budgets}, {len(self.groups)} groups, penalty={self.penalty.name!r}, "
            f"{self.schedule})\naround {self.optimizer!r}"
        )


def _warn_of_zeros(count: int, total: int) -> None:
    if count:
        warnings.warn(
            f"{count} of {total} groups that the budget has room for are zero already, and stay "
            "so: the network ends smaller than it was asked to. Were they zero from the start, or "
            "does weight decay or another penalty kill them?",
            stacklevel=2,
        )


_COPIED = {
    *("optimizer", "groups", "budgets", "penalty", "every", "schedule", "importance", "geometry"),
    *("allowance", "steps_taken", "frozen"),
    *("_allowances", "_relaxation", "_support", "statistics", "_gradient_seen"),
}
