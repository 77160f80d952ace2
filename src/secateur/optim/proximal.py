"""`Proximal`: any optimizer of torch, followed by the proximal step that meets the budget.

In: an optimizer, groups and a budget. Out: an optimizer for the same loop, which ends with exactly
the groups that the budget affords, all others zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.budget import Budget, NMAllowance
from secateur.groups import Groups
from secateur.optim.chained import Chained, parts_of
from secateur.optim.compatibility import check_parts, descending, felt_share, schedule_for
from secateur.optim.geometry import metric_of
from secateur.optim.gradients import any_gradient, refuse_bad, refuse_sparse, sum_up_
from secateur.optim.importance import weighting
from secateur.optim.penalties import Kept, convex, firm, lasso, saliency
from secateur.optim.schedules import Constant, Homotopy
from secateur.optim.state import joined, ours_in, theirs_in
from secateur.optim.statistics import followed
from secateur.optim.support import Support
from secateur.utils.distributed import all_reduce_sum, local

Closure = Callable[[], Any]

# Until the groups are chosen, a group that firm shrinkage sets to zero is made this much smaller
# instead. Exactly zero behind a ReLU it would see no gradient, could never come back, and would
# leave a hole in the budget when a costlier group dies after it. One that has faded below this
# share of the largest norm is left alone: smaller still, its square would leave float32's range.
REVIVAL = 0.1
FADED = 1e-9


class Proximal(Optimizer):
    """Wrap an optimizer so that training ends exactly on a budget.

    Each step is the wrapped optimizer's, then a proximal step on the groups. With the default firm
    penalty (hardness r raised from 0 to 1 by `Homotopy`) a group of saliency
    s_j = a_j sqrt(d_j / c_j) is multiplied by

        u_j / (r + (1 - r) u_j),    u_j = clip((s_j / T - r) / (1 - r), 0, 1)

    where a_j is its norm, d_j its weight, c_j what it costs now, and the threshold T is the one at
    which the network's true cost equals the budget. Strong groups are untouched, weak ones fade (by
    a factor of 10 a step, not to 0 at once, so that they may come back). At r = 1 the set of groups
    is chosen; from then on it is fixed, dead entries stay exactly zero (their gradients and the
    optimizer's state too) and the others train on.

    By default the proximal step is Euclidean, also after an adaptive optimizer's step. With
    metric="optimizer" it measures as that step did: with h_j the mean of the optimizer's
    preconditioner over group j, everything happens to z_j = sqrt(h_j) x_j, in which the step was an
    ordinary gradient step.

        envelope, lasso:  argmin_x  1/2 sum_j h_j ||x_j - v_j||^2 + lr lam S(x)
                          which puts norms a_j sqrt(h_j) and weights d_j / h_j for a_j and d_j
        firm:             s_j = a_j sqrt(d_j h_j / c_j)

    A penalty with a lambda is a function of x, so its weights change with the variables. The firm
    penalty stands for the budget alone, which asks only which groups are zero and is the same for z
    as for x: it is taken of z as it stands, and at r = 1 it is the projection onto the budget in
    the metric h. (Keeping it a function of x instead, with the weights d in the penalty and h in
    the metric, would give each group a hardness of its own, r d_j / h_j, and no r at which all are
    chosen.)

    With several budgets, each smaller than the one before, one run gives a network for each: when
    training has settled on a budget (`settled`), the network can be shrunk; then the next stage
    begins, and the groups that are left compete for the next budget.

    Args:
        optimizer: any optimizer of torch.optim or in its style; it owns state and param_groups. Or
            several, each of its own parameters, which step in turn (`Chained`).
        groups: which parameters live and die together; all must be in the optimizer.
        budget: what may be kept; refused at once if it can't be reached. Or several, descending.
        steps: optimizer steps in the whole run, for the default schedule `Homotopy(steps)`.
        schedule: a `Homotopy`, or `Constant(lam)` with a penalty that has a lambda; instead of
            steps.
        penalty: "firm", or "envelope": the paper's convex penalty, which shrinks what it keeps and
            reaches the budget only if lambda is right; or "lasso", to compare with: the group lasso
            lam * sum_j sqrt(d_j) a_j, which knows of no budget.
        lam: short for schedule=Constant(lam).
        weights: "curvature" (how much the loss curves along a group, from squared gradients), 1.0
            (the paper's plain norms), "layer" (norms relative to their layer's), a number or tensor
            of shape (m,) of your own, or "auto": "curvature", but 1.0 with a lambda and in the
            optimizer's metric.
        every: take the proximal step after every so many steps, as hard as all of them would have
            been together, and look at gradients only then; the freeze is never late.
        metric: "euclidean", or "optimizer" for Adam, AdamW, NAdam, RMSprop and Adagrad.
        statistics: "recent" for running averages of BatchNorm that keep up while the budget presses
            and begin anew at the choice (`RunningStatistics`), so that the network is handed over
            with those of itself; "model" leaves them to the model's own momentum.

    Raises:
        TypeError: parts of another type, or SparseAdam.
        ValueError: no steps, a budget out of reach, budgets that don't descend, a grouped parameter
            that isn't optimized, or options that don't go together.

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
        budget: Budget | Sequence[Budget],
        *,
        steps: int | None = None,
        schedule: Homotopy | Constant | None = None,
        penalty: str = "firm",
        lam: float | None = None,
        weights: Any = "auto",
        every: int = 1,
        metric: str = "euclidean",
        statistics: str = "recent",
    ) -> None:
        one = isinstance(budget, Budget) or not isinstance(budget, Sequence)
        self.budgets: tuple[Budget, ...] = (budget,) if one else tuple(budget)  # pyright: ignore
        chain = Chained(*optimizer) if isinstance(optimizer, Sequence) else optimizer
        nested = any(isinstance(part, Proximal) for part in parts_of(chain))
        check_parts(chain, groups, self.budgets, every, nested=nested)
        self.optimizer = chain
        super().__setstate__({})  # hooks and profiling, without parameters of our own
        self.groups = groups
        self.penalty = penalty
        self.every = every
        self.weighting = weighting(weights, groups, metric, penalty)
        self.metric = metric_of(metric, self.optimizer, groups)
        self._allowances = descending(self.budgets, groups)
        share = felt_share(self._allowances[-1], groups)
        self.schedule = schedule_for(penalty, steps, schedule, lam, len(self.budgets), share)
        self.allowance = self._allowances[0]
        if penalty != "firm" and isinstance(self.allowance, NMAllowance):
            raise ValueError(
                f"penalty={penalty!r} has one level for all; n of every m needs the firm penalty"
            )
        self.steps_taken = 0
        self.frozen = False
        self._last = Kept(np.ones(len(groups)))
        self._support: Support | None = None
        self._statistics = followed(statistics, groups.model, pressing=penalty == "firm")

    _seen: Tensor | None = None  # by the weighting in this step, to be learned once it was taken

    # -- what can be watched -----------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """How many groups the last proximal step kept, wholly or in part (the others fade)."""
        return int((self._last.multipliers > 0).sum())

    @property
    def multipliers(self) -> Tensor:
        """How much of each group the last proximal step kept: u in [0, 1], float64 of shape (m,).

        Once frozen, 1 for what stays and 0 for what is dead. A copy.
        """
        return torch.from_numpy(self._last.multipliers.copy())

    @property
    def hardness(self) -> float:
        """How far the homotopy is, 0 to 1 (without a `Homotopy`: 1 once frozen, else 0)."""
        if self.frozen:
            return 1.0
        return self.schedule(self.steps_taken) if self.penalty == "firm" else 0.0

    @property
    def threshold(self) -> float | None:
        """The T of the last proximal step (with per_layer: the share kept of every layer).

        None before the first one, once frozen, and for other penalties than the firm one.
        """
        return self._last.threshold

    @property
    def stage(self) -> int:
        """Which of the budgets is being trained to, or was last, from 0."""
        return self.schedule.stage(max(self.steps_taken, 1))

    @property
    def budget(self) -> Budget:
        """The budget of this stage."""
        return self.budgets[self.stage]

    @property
    def settled(self) -> bool:
        """Whether the last step was the last one of its stage: the network can be shrunk now."""
        return self.frozen and self.steps_taken in self.schedule.ends

    @property
    def spent(self) -> dict[str, float]:
        """What the network costs now, by the budget's own measures."""
        return self.allowance.spent(self._last.multipliers)

    @torch.no_grad()
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
        rates = {p: lr for p, lr in self._rates() if p.grad is not None and lr != 0}
        if not rates:
            raise RuntimeError(
                "stationarity(): call backward() first; no parameter has both a gradient and a "
                "learning rate above 0"
            )
        sum_up_(self.param_groups)
        moved = {p: _wide(p).sub_(_wide(p.grad), alpha=lr) for p, lr in rates.items()}
        if self.frozen:
            factors = self._last.multipliers
        else:
            held = [moved.get(m.parameter, local(m.parameter)) for m in self.groups.members]
            norms = self.groups.squares(held).sqrt_().cpu().double().numpy()
            own = self.metric(self.optimizer, self.groups) if self.penalty == "firm" else 1.0
            factors, _ = self._press(norms, own)
        padded = self.groups.pad(torch.from_numpy(factors))
        for member in self.groups.members:
            if member.parameter in moved:
                member.scale_(padded, moved[member.parameter])

        def add_(parameter: Tensor, total: Tensor) -> None:
            step = _wide(parameter).sub_(moved[parameter]).div_(rates[parameter])
            total += step.square().sum().to(total)

        squares = all_reduce_sum(((p, partial(add_, p)) for p in rates), torch.zeros(()).double())
        return float(squares) ** 0.5

    # -- one step ----------------------------------------------------------------------------------

    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]  # it loses what it traces
    def step(self, closure: Closure | None = None) -> Any:  # pyright: ignore
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
            RuntimeError: a CUDA graph is being captured.
        """
        _refuse_capture()
        if closure is not None:
            loss = self.optimizer.step(self._watched(closure))
        elif self._resting() and not any_gradient(self.param_groups):
            return self.optimizer.step()
        else:
            self._see_gradients()
            loss = self.optimizer.step()
        self._count(press=not self._resting())
        return loss

    def skip(self) -> None:
        """Count a step that was not taken, such as one that a GradScaler skipped.

        The groups are then chosen at the step that was announced; without this, at a later one, as
        a skipped step is not seen from here.

        Example:
            >>> scale = scaler.get_scale()  # doctest: +SKIP
            >>> scaler.step(optimizer)  # doctest: +SKIP
            >>> scaler.update()  # doctest: +SKIP
            >>> if scaler.get_scale() < scale:  # doctest: +SKIP
            ...     optimizer.skip()
        """
        self._seen = None  # by a step that failed
        self._count(press=False)

    def _count(self, *, press: bool) -> None:
        """Go on by one step of the schedule; without `press`, nothing but the freeze is done."""
        self.steps_taken += 1
        self._statistics.follow_(chosen=self.frozen)
        if self._seen is not None:
            self.weighting.learn(self._seen, self.every)
            self._seen = None
        if self.frozen and self.steps_taken - 1 in self.schedule.ends[:-1]:
            self._thaw()
        if self._support is not None:
            self._support.clear_parameters_()
        if not self.frozen:
            if self.penalty == "firm" and self.schedule(self.steps_taken) >= 1:
                self.freeze_()
            elif press and self.steps_taken % self.every == 0:
                self._prox_()

    def _will_press(self) -> bool:
        """Whether the next step, if it counts, ends with a proximal step or with the choice."""
        step = self.steps_taken + 1
        chooses = self.penalty == "firm" and self.schedule(step) >= 1
        return not self.frozen and (chooses or step % self.every == 0)

    def _resting(self) -> bool:
        """Whether every learning rate is 0."""
        return all(lr is not None and float(lr) == 0 for lr in self._given_rates())

    def freeze_(self) -> None:
        """Choose the groups now, within the budget, and keep this choice to the stage's end."""
        norms = self._norms()
        weights = self.weighting(norms) * self.metric(self.optimizer, self.groups)
        worth = saliency(self.allowance, norms, weights, self._last.multipliers)
        self._keep(self.budget.choose(self.allowance, worth))

    def _keep(self, kept: np.ndarray) -> None:
        self.frozen = True
        self._last = Kept(kept.astype(float))
        self._support = Support(self.groups, kept)
        self._support.clear_parameters_()
        self._support.clear_state_(self.state)
        if not kept.all():
            self._statistics.begin_anew()

    def _thaw(self) -> None:
        """Begin the next stage: what is dead stays dead, what is left competes again."""
        self.frozen = False
        self._restrict(self.stage, self._last.multipliers > 0)

    def _restrict(self, stage: int, live: np.ndarray) -> None:
        self.allowance = self._allowances[stage].restricted(live)

    def _see_gradients(self, evaluation: int = 1) -> None:
        """Refuse bad gradients, let the weighting look at good ones, keep the dead from moving."""
        where = f"step {self.steps_taken + 1}"
        if evaluation > 1:
            where += f", evaluation {evaluation} of the closure"
        sum_up_(self.param_groups)
        refuse_sparse((m.name, m.parameter) for m in self.groups.members)
        looking = evaluation == 1 and self._will_press()
        seen = self.weighting.look(self.groups) if looking else None
        good = self._whole if seen is not None and bool(seen.isfinite().all()) else ()
        names = ((m.name, m.parameter) for m in self.groups.members)
        refuse_bad(self.param_groups, names, where, good)
        if evaluation == 1:
            self._seen = seen
        if self._support is not None:
            self._support.clear_gradients_()

    @cached_property
    def _whole(self) -> frozenset[int]:
        """The ids of the parameters that have every element in a group."""
        return frozenset(id(m.parameter) for m in self.groups.members if not m.has_gaps)

    def _watched(self, closure: Closure) -> Closure:
        evaluations = 0

        def watched() -> Any:
            nonlocal evaluations
            evaluations += 1
            with torch.enable_grad():
                loss = closure()
            self._see_gradients(evaluations)
            return loss

        return watched

    def _given_rates(self) -> Iterator[Any]:
        """Each group's learning rate: a number, a tensor, or None where it has none."""
        return (group.get("lr") for group in self.param_groups)

    def _rates(self) -> Iterator[tuple[Tensor, float]]:
        """How far each parameter goes against its gradient (below 0 where it is maximized)."""
        for group, lr in zip(self.param_groups, self._given_rates(), strict=True):
            if lr is None:
                raise ValueError(
                    f"{type(self.optimizer).__name__} has no learning rate, lr, which "
                    "stationarity() and a penalty with a lambda need"
                )
            rate = -float(lr) if group.get("maximize") else float(lr)
            for parameter in group["params"]:
                yield parameter, rate

    # -- the proximal step -------------------------------------------------------------------------

    def _prox_(self) -> None:
        """Scale every group by its factor."""
        if self.schedule(self.steps_taken) > 0:
            norms = self._norms()
            metric = self.metric(self.optimizer, self.groups)
            factors, self._last = self._press(norms, metric, self.every)
            if self.penalty == "firm":
                faded = norms < FADED * norms.max(initial=0)
                factors = np.where(factors < REVIVAL, np.where(faded, 1.0, REVIVAL), factors)
            self.groups.scale_(torch.from_numpy(factors))

    def _press(
        self, norms: np.ndarray, metric: float | np.ndarray, steps: int = 1
    ) -> tuple[np.ndarray, Kept]:
        """The factors for these norms after so many steps, and how much of each group they keep."""
        pull, weights = self.schedule(self.steps_taken), self.weighting(norms)
        if self.penalty == "firm":
            if pull == 0:
                return np.ones_like(norms), self._last
            if steps > 1:  # 1 - (1 - r) ** steps: what a group that loses r a step has lost by now
                pull = -math.expm1(steps * math.log1p(-pull))
            return firm(self.allowance, norms, weights * metric, pull, self._last)
        step = pull * steps * self._one_rate()
        norms, weights = norms * np.sqrt(metric), weights / metric
        if self.penalty == "lasso":
            return lasso(norms, weights, step)
        return convex(self.allowance, norms, weights, step, self._last)

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

    def _one_rate(self) -> float:
        grouped = {id(member.parameter) for member in self.groups.members}
        rates = {abs(lr) for p, lr in self._rates() if id(p) in grouped}
        if len(rates) > 1:
            raise ValueError(
                f"penalty={self.penalty!r} needs one learning rate for all grouped parameters, got "
                f"{sorted(rates)}; the firm penalty doesn't"
            )
        return rates.pop()

    # -- the contract of torch.optim ---------------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # pyright: ignore
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # pyright: ignore
        return self.optimizer.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters; those in no group stay free."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, and ours under "proximal": tensors and plain values."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        state = joined(self.optimizer.state_dict(), self._own_state(), self.groups.device)
        for hook in self._optimizer_state_dict_post_hooks.values():
            state = hook(self, state) or state
        return state

    def _own_state(self) -> dict[str, Any]:
        return {
            **self._identity(),
            "steps_taken": self.steps_taken,
            "multipliers": torch.from_numpy(self._last.multipliers.copy()),
            "threshold": self._last.threshold,
            "frozen": self.frozen,
            "live": torch.from_numpy(self._live().copy()),
            "weighting": self.weighting.state_dict(),
            "statistics": self._statistics.state_dict(),
        }

    def _live(self) -> np.ndarray:
        """Which groups were not given up for good, bool of shape (m,)."""
        return np.ones(len(self.groups), bool) if self._support is None else self._support.kept

    def _identity(self) -> dict[str, Any]:
        """What must be equal here and where a state comes from."""
        return {
            "optimizer": " + ".join(type(part).__name__ for part in parts_of(self.optimizer)),
            "layers": [[layer.name, layer.kind, len(layer)] for layer in self.groups.layers],
            "penalty": self.penalty,
            "budgets": len(self.budgets),
            "weights": type(self.weighting).__name__,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a state_dict was taken; the model's own state is loaded separately.

        Raises:
            ValueError: the state comes from another kind of optimizer or other groups; nothing has
                been changed.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        ours = ours_in(state_dict)
        if ours is None:
            raise ValueError(
                "this state_dict was not taken from secateur.Proximal (it has no 'proximal' "
                "entry); load it into the wrapped optimizer before wrapping"
            )
        if missing := [name for name in self._own_state() if name not in ours]:
            raise ValueError(f"this state_dict is damaged: it lacks {', '.join(missing)}")
        for name, expected in self._identity().items():
            if ours[name] != expected:
                raise ValueError(
                    f"this state_dict was taken from a Proximal with other {name}\n"
                    f"  expected {expected}\n  found    {ours[name]}"
                )
        self.optimizer.load_state_dict(theirs_in(state_dict))
        self.weighting.load_state_dict(ours["weighting"])
        self._statistics.load_state_dict(ours["statistics"])
        self.steps_taken = int(ours["steps_taken"])
        multipliers = ours["multipliers"].cpu().double().numpy().copy()
        self._last = Kept(multipliers, ours["threshold"])
        self.frozen = ours["frozen"]
        live = ours["live"].cpu().numpy()
        self._support = None if live.all() else Support(self.groups, live)
        if live.all() or self.frozen:
            self.allowance = self._allowances[self.stage]
        else:
            self._restrict(self.stage, live)
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not hooks, nor the `step` that a scheduler puts in place."""
        return {name: value for name, value in vars(self).items() if name in _COPIED}

    def __repr__(self) -> str:
        budgets = ", then ".join(map(str, self.budgets))
        return (
            f"Proximal({budgets}, {len(self.groups)} groups, penalty={self.penalty!r}, "
            f"{self.schedule})\naround {self.optimizer!r}"
        )


_COPIED = (
    *("optimizer", "groups", "budgets", "penalty", "every", "schedule", "weighting", "allowance"),
    "metric",
    *("steps_taken", "frozen", "_allowances", "_last", "_support", "_statistics"),
)


def _wide(tensor: Tensor | None) -> Tensor:
    """A copy, in the widest floating type of its device, of what this process holds."""
    assert tensor is not None
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    return local(tensor).detach().to(dtype, copy=True)


def _refuse_capture() -> None:
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "Proximal.step can't be captured in a CUDA graph: which groups stay is decided on the "
            "host. Capture the forward and the backward pass (torch.cuda.make_graphed_callables), "
            "and call step() outside of the graph"
        )
