"""`Proximal`: any optimizer of torch, followed by the proximal step that meets the budget.

In: an optimizer, groups and a budget. Out: an optimizer for the same loop, which ends with exactly
the groups that the budget affords, all others zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.budget import Allowance, BlockwiseAllowance, Budget
from secateur.groups import Groups
from secateur.optim.gradients import refuse_bad
from secateur.optim.penalties import Kept, convex, firm, saliency
from secateur.optim.schedules import Constant, Homotopy
from secateur.optim.support import Support
from secateur.optim.weights import summed, weighting

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
    The proximal step is Euclidean, also after an adaptive optimizer's step.

    With several budgets, each smaller than the one before, one run gives a network for each: when
    training has settled on a budget (`settled`), the network can be shrunk; then the next stage
    begins, and the groups that are left compete for the next budget.

    Args:
        optimizer: any optimizer of torch.optim or in its style; it owns state and param_groups.
        groups: which parameters live and die together; all must be in the optimizer.
        budget: what may be kept; refused at once if it can't be reached. Or several, descending.
        steps: optimizer steps in the whole run, for the default schedule `Homotopy(steps)`.
        schedule: a `Homotopy`, or `Constant(lam)` with penalty="envelope"; instead of steps.
        penalty: "firm", or "envelope": the paper's convex penalty, which shrinks what it keeps and
            reaches the budget only if lambda is right.
        lam: short for schedule=Constant(lam).
        weights: 1.0 (the paper's plain norms), "layer" (norms relative to their layer's), "auto"
            ("layer" where normalisation layers make norms arbitrary, else 1.0), "curvature" (a
            running mean of squared gradients), or a number or tensor of shape (m,) of your own.
        every: take the proximal step after every so many steps; the freeze is never late.

    Raises:
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
        optimizer: Optimizer,
        groups: Groups,
        budget: Budget | Sequence[Budget],
        *,
        steps: int | None = None,
        schedule: Homotopy | Constant | None = None,
        penalty: str = "firm",
        lam: float | None = None,
        weights: Any = "auto",
        every: int = 1,
    ) -> None:
        one = isinstance(budget, Budget) or not isinstance(budget, Sequence)
        self.budgets: tuple[Budget, ...] = (budget,) if one else tuple(budget)  # pyright: ignore
        _check_parts(optimizer, groups, self.budgets, every)
        self.optimizer = optimizer
        super().__setstate__({})  # hooks and profiling, without parameters of our own
        self.groups = groups
        self.penalty = penalty
        self.every = every
        self.schedule = _schedule(penalty, steps, schedule, lam, len(self.budgets))
        self.weighting = weighting(weights, groups)
        self._allowances = _descending(self.budgets, groups)
        self.allowance = self._allowances[0]
        if penalty == "envelope" and isinstance(self.allowance, BlockwiseAllowance):
            raise ValueError(
                "penalty='envelope' has one level for all; n of every m needs the firm penalty"
            )
        self.steps_taken = 0
        self.frozen = False
        self._last = Kept(np.ones(len(groups)))
        self._support: Support | None = None

    # -- what can be watched -----------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """How many groups the last proximal step kept, wholly or in part (the others fade)."""
        return int((self._last.multipliers > 0).sum())

    @property
    def hardness(self) -> float:
        """How far the homotopy is, 0 to 1 (for penalty="envelope": 1 once frozen, else 0)."""
        if self.frozen:
            return 1.0
        return self.schedule(self.steps_taken) if self.penalty == "firm" else 0.0

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
        rates = {p: float(lr) for p, lr in self._rates() if p.grad is not None and lr > 0}
        if not rates:
            raise RuntimeError(
                "stationarity(): call backward() first; no parameter has both a gradient and a "
                "learning rate above 0"
            )
        moved = {p: _wide(p).sub_(_wide(p.grad), alpha=lr) for p, lr in rates.items()}
        if self.frozen:
            factors = self._last.multipliers
        else:
            squares = summed(self.groups, lambda m: moved.get(m.parameter, m.parameter.detach()))
            factors, _ = self._press(squares.sqrt_().numpy())
        padded = self.groups.pad(torch.from_numpy(factors))
        for member in self.groups.members:
            if member.parameter in moved:
                member.scale_(padded, moved[member.parameter])
        squares = [
            float(_wide(p).sub_(moved[p]).div_(lr).square().sum()) for p, lr in rates.items()
        ]
        return sum(squares) ** 0.5

    # -- one step ----------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Any:  # pyright: ignore
        """The wrapped optimizer's step, then the proximal one.

        Args:
            closure: computes the loss and the gradients anew, for optimizers that want it.

        Raises:
            FloatingPointError: a gradient holds NaN or inf; nothing has been changed. (An optimizer
                that calls the closure several times, LBFGS, may have moved by the later ones.)
        """
        if closure is None:
            self._see_gradients()
            loss = self.optimizer.step()
        else:
            loss = self.optimizer.step(self._watched(closure))
        self.steps_taken += 1
        if self.frozen and self.steps_taken - 1 in self.schedule.ends[:-1]:
            self._thaw()
        if self._support is not None:
            self._support.clear_parameters_()
        if not self.frozen:
            if self.penalty == "firm" and self.schedule(self.steps_taken) >= 1:
                self.freeze_()
            elif self.steps_taken % self.every == 0:
                self._prox_()
        return loss

    def freeze_(self) -> None:
        """Choose the groups now, within the budget, and keep this choice to the stage's end."""
        norms = self._norms()
        worth = saliency(self.allowance, norms, self.weighting(norms), self._last.multipliers)
        self._keep(self.budget.choose(self.allowance, worth))

    def _keep(self, kept: np.ndarray) -> None:
        self.frozen = True
        self._last = Kept(kept.astype(float))
        self._support = Support(self.groups, kept)
        self._support.clear_parameters_()
        self._support.clear_state_(self.state)

    def _thaw(self) -> None:
        """Begin the next stage: what is dead stays dead, what is left competes again."""
        self.frozen = False
        self._restrict(self.stage, self._last.multipliers > 0)

    def _restrict(self, stage: int, live: np.ndarray) -> None:
        self.allowance = self._allowances[stage].restricted(live)

    def _see_gradients(self, evaluation: int = 1) -> None:
        """Refuse bad gradients, let the weighting see good ones, keep dead entries from moving."""
        where = f"step {self.steps_taken + 1}"
        if evaluation > 1:
            where += f", evaluation {evaluation} of the closure"
        refuse_bad(self.param_groups, ((m.name, m.parameter) for m in self.groups.members), where)
        if self._support is not None:
            self._support.clear_gradients_()
        if not self.frozen and evaluation == 1:
            self.weighting.observe(self.groups)

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

    def _rates(self) -> Iterator[tuple[Tensor, Any]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                yield parameter, group["lr"]

    # -- the proximal step -------------------------------------------------------------------------

    def _prox_(self) -> None:
        """Scale every group by its factor."""
        if self.schedule(self.steps_taken) > 0:
            norms = self._norms()
            factors, self._last = self._press(norms)
            if self.penalty == "firm":
                faded = norms < FADED * norms.max(initial=0)
                factors = np.where(factors < REVIVAL, np.where(faded, 1.0, REVIVAL), factors)
            self.groups.scale_(torch.from_numpy(factors))

    def _press(self, norms: np.ndarray) -> tuple[np.ndarray, Kept]:
        """The factors at these norms, and how much of each group they keep."""
        pull, weights = self.schedule(self.steps_taken), self.weighting(norms)
        if self.penalty == "envelope":
            return convex(self.allowance, norms, weights, pull * self._one_rate(), self._last)
        if pull == 0:
            return np.ones_like(norms), self._last
        return firm(self.allowance, norms, weights, pull, self._last)

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
        rates = {float(lr) for p, lr in self._rates() if id(p) in grouped}
        if len(rates) > 1:
            raise ValueError(
                "penalty='envelope' needs one learning rate for all grouped parameters, got "
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
        state = {**self.optimizer.state_dict(), "proximal": self._own_state()}
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
            "live": None if self._support is None else torch.from_numpy(self._support.kept.copy()),
            "weighting": self.weighting.state_dict(),
        }

    def _identity(self) -> dict[str, Any]:
        """What must be equal here and where a state comes from."""
        return {
            "optimizer": type(self.optimizer).__name__,
            "layers": [(layer.name, layer.kind, len(layer)) for layer in self.groups.layers],
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
        ours = state_dict.get("proximal")
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
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != "proximal"})
        self.weighting.load_state_dict(ours["weighting"])
        self.steps_taken = int(ours["steps_taken"])
        multipliers = ours["multipliers"].cpu().double().numpy().copy()
        self._last = Kept(multipliers, ours["threshold"])
        self.frozen = ours["frozen"]
        live = None if ours["live"] is None else ours["live"].cpu().numpy()
        self._support = None if live is None else Support(self.groups, live)
        if live is None or self.frozen:
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
    *("steps_taken", "frozen", "_allowances", "_last", "_support"),
)


def _wide(tensor: Tensor | None) -> Tensor:
    """A copy in the widest floating type of its device."""
    assert tensor is not None
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    return tensor.detach().to(dtype, copy=True)


def _check_parts(optimizer: Any, groups: Any, budgets: tuple[Any, ...], every: int) -> None:
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, Proximal):
        raise TypeError(
            "Proximal wraps an optimizer such as torch.optim.SGD(model.parameters(), lr=0.1), got "
            f"{type(optimizer).__name__}"
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
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [m.name for m in groups.members if id(m.parameter) not in optimized]
    if missing:
        raise ValueError(
            f"{', '.join(missing[:5])} {'is' if len(missing) == 1 else 'are'} grouped but not in "
            "the optimizer; pass all of the model's parameters to it, or ignore= their modules"
        )


def _descending(
    budgets: Sequence[Budget], groups: Groups
) -> tuple[Allowance | BlockwiseAllowance, ...]:
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


def _schedule(
    penalty: str, steps: int | None, schedule: Any, lam: float | None, stages: int
) -> Homotopy | Constant:
    if penalty not in ("firm", "envelope"):
        raise ValueError(f"penalty={penalty!r}: expected 'firm' or 'envelope'")
    if schedule is not None and (steps is not None or lam is not None):
        raise ValueError("give schedule=, or steps= / lam=, not both")
    if penalty == "envelope":
        found = Constant(lam) if lam is not None else schedule
        if not isinstance(found, Constant):
            raise ValueError("penalty='envelope' needs lam=, or schedule=Constant(lam)")
        if stages > 1:
            raise ValueError(
                "penalty='envelope' reaches one budget at best; several in one run need 'firm'"
            )
        return found
    if lam is not None:
        raise ValueError(
            "lam= belongs to penalty='envelope'; the firm penalty has no lambda to tune"
        )
    if schedule is None:
        if steps is None:
            raise ValueError(
                "Proximal: say how long training is, steps=epochs * len(loader), or pass schedule="
            )
        return Homotopy(steps, stages=stages)
    if not isinstance(schedule, Homotopy):
        raise ValueError(f"penalty='firm' needs a Homotopy schedule, got {type(schedule).__name__}")
    if schedule.stages not in (1, stages):
        raise ValueError(f"{schedule} has {schedule.stages} stages for {stages} budgets")
    return replace(schedule, stages=stages)
