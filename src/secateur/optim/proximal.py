"""`Proximal`: any optimizer of torch, followed by the proximal step that meets the budget.

In: an optimizer, groups and a budget. Out: an optimizer for the same loop, which ends with exactly
the groups that the budget affords, all others zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur import envelope
from secateur.budget import Budget
from secateur.envelope.firm import factors as firm_factors
from secateur.groups import Groups
from secateur.optim.schedules import Constant, Homotopy
from secateur.optim.weights import weighting

Closure = Callable[[], Any]


class Proximal(Optimizer):
    """Wrap an optimizer so that training ends exactly on a budget.

    Each step is the wrapped optimizer's, then a proximal step on the groups. With the default firm
    penalty (hardness r raised from 0 to 1 by `Homotopy`) a group of saliency
    s_j = a_j sqrt(d_j / c_j) is multiplied by

        u_j / (r + (1 - r) u_j),    u_j = clip((s_j / T - r) / (1 - r), 0, 1)

    where a_j is its norm, d_j its weight, c_j what it costs now, and the threshold T is the one at
    which the network's true cost equals the budget. Strong groups are untouched, weak ones are zero
    and may come back. At r = 1 the set of groups is chosen; from then on it is fixed, dead entries
    stay exactly zero (their gradients and the optimizer's state too) and the others train on.

    Args:
        optimizer: any optimizer of torch.optim or in its style; it owns state and param_groups.
        groups: which parameters live and die together; all must be in the optimizer.
        budget: what may be kept; refused at once if it can't be reached.
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
        ValueError: no steps, a budget out of reach, a grouped parameter that isn't optimized, or
            options that don't go together.

    Example:
        >>> import secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
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
        budget: Budget,
        *,
        steps: int | None = None,
        schedule: Homotopy | Constant | None = None,
        penalty: str = "firm",
        lam: float | None = None,
        weights: Any = "auto",
        every: int = 1,
    ) -> None:
        _check_parts(optimizer, groups, budget, every)
        self.optimizer = optimizer
        super().__setstate__({})  # hooks and profiling, without parameters of our own
        self.groups = groups
        self.budget = budget
        self.penalty = penalty
        self.every = every
        self.schedule = _schedule(penalty, steps, schedule, lam)
        self.weighting = weighting(weights, groups)
        self.allowance = budget.on(groups)
        self.steps_taken = 0
        self._multipliers = np.ones(len(groups))
        self._threshold: float | None = None
        self._mask: Tensor | None = None  # 1 for kept, 0 for dead, 1 for "no group"; once frozen

    # -- what can be watched ------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """How many groups the last proximal step left non-zero."""
        return int((self._multipliers > 0).sum())

    @property
    def hardness(self) -> float:
        """How far the homotopy is, 0 to 1 (for penalty="envelope": 1 once frozen, else 0)."""
        if self.frozen:
            return 1.0
        return self.schedule(self.steps_taken) if self.penalty == "firm" else 0.0

    @property
    def frozen(self) -> bool:
        """Whether the groups have been chosen."""
        return self._mask is not None

    @property
    def spent(self) -> dict[str, float]:
        """What the network costs now, by the budget's own measures."""
        return self.allowance.spent(self._multipliers)

    @torch.no_grad()
    def stationarity(self) -> float:
        """The distance to stationarity on the batch whose gradients are in place.

            || theta - prox(theta - lr * grad) || / lr

        Returns:
            A number that falls towards 0 as training converges; parameters are left as they were.

        Raises:
            RuntimeError: no parameter has a gradient.

        Source: Ghadimi, Lan and Zhang, 2016; Davis and Drusvyatskiy, 2019.
        """
        active = [(p, float(lr)) for p, lr in self._rates() if p.grad is not None and lr > 0]
        if not active:
            raise RuntimeError("stationarity(): call backward() first; no parameter has a gradient")
        before = [p.clone() for p, _ in active]
        state = (self._multipliers, self._threshold)
        try:
            for p, lr in active:
                assert p.grad is not None
                p.sub_(p.grad, alpha=lr)
            if self._mask is None:
                self._prox_()
            else:
                self._apply_mask_()
            total = sum(
                float(((old - p) / lr).double().square().sum())
                for old, (p, lr) in zip(before, active, strict=True)
            )
        finally:
            for old, (p, _) in zip(before, active, strict=True):
                p.copy_(old)
            self._multipliers, self._threshold = state
        return total**0.5

    # -- one step -----------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Any:  # pyright: ignore
        """The wrapped optimizer's step, then the proximal one.

        Raises:
            FloatingPointError: a gradient holds NaN or inf; nothing has been changed.
        """
        if closure is None:
            self._before()
            loss = self.optimizer.step()
        else:
            loss = self.optimizer.step(self._guarded(closure))
        self.steps_taken += 1
        if self.frozen:
            self._apply_mask_()
        elif self.penalty == "firm" and self.schedule(self.steps_taken) >= 1:
            self.freeze_()
        elif self.steps_taken % self.every == 0:
            self._prox_()
        return loss

    def freeze_(self) -> None:
        """Choose the groups now, within the budget, and keep this choice to the end."""
        kept = self.allowance.choose(self._saliency())
        self._multipliers = kept.astype(float)
        self._freeze_on(self._multipliers)
        self._apply_mask_()
        for member in self.groups.members:
            for value in self.state.get(member.parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == member.parameter.shape:
                    assert self._mask is not None
                    member.scale_(self._mask, value)

    def _freeze_on(self, multipliers: np.ndarray) -> None:
        mask = torch.from_numpy(multipliers).to(self.groups.device, torch.float32)
        self._mask = self.groups.pad(mask)

    def _before(self) -> None:
        """Check the gradients, let the weighting see them, and keep dead entries from moving."""
        self._refuse_bad_gradients()
        if self._mask is None:
            self.weighting.observe(self.groups)
            return
        for member in self.groups.members:
            if member.parameter.grad is not None:
                member.scale_(self._mask, member.parameter.grad)

    def _guarded(self, closure: Closure) -> Closure:
        def guarded() -> Any:
            with torch.enable_grad():
                loss = closure()
            self._before()
            return loss

        return guarded

    def _refuse_bad_gradients(self) -> None:
        grads = [p.grad for p, _ in self._rates() if p.grad is not None]
        if not grads:
            return
        norms = torch.stack([n.float() for n in torch._foreach_norm(grads)])
        if bool(torch.isfinite(norms).all()):
            return
        names = {id(m.parameter): m.name for m in self.groups.members}
        bad = [
            names.get(id(p), f"parameter of shape {tuple(p.shape)}")
            for p, _ in self._rates()
            if p.grad is not None and not bool(torch.isfinite(p.grad).all())
        ]
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise FloatingPointError(
                f"step {self.steps_taken + 1}: NaN or inf in the gradient of "
                f"{', '.join(bad[:3])}{more}; no parameter has been changed. "
                "Lower the learning rate or clip gradients; with fp16, use a GradScaler"
            )

    def _rates(self) -> Iterator[tuple[Tensor, Any]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                yield parameter, group["lr"]

    # -- the proximal step ----------------------------------------------------------------------------

    @torch.no_grad()
    def _prox_(self) -> None:
        """Scale every group by its factor."""
        pull = self.schedule(self.steps_taken)
        if pull == 0:
            return
        if self.penalty == "firm":
            u, self._threshold = self.allowance.relax(self._saliency(), pull, start=self._threshold)
            found = firm_factors(u, pull)
            self._multipliers = u
        else:
            found = self._envelope_factors(pull * self._one_rate())
        self.groups.scale_(torch.from_numpy(np.ascontiguousarray(found)))

    def _norms(self) -> np.ndarray:
        norms = self.groups.norms().cpu().double().numpy()
        if not np.isfinite(norms).all():
            bad = self.groups.names[int(np.flatnonzero(~np.isfinite(norms))[0])]
            raise FloatingPointError(
                f"step {self.steps_taken}: the norm of group {bad} is NaN or inf; "
                "training has diverged, lower the learning rate"
            )
        return norms

    def _saliency(self) -> np.ndarray:
        """a_j sqrt(d_j / c_j): what a group is worth per unit of what it costs now."""
        norms = self._norms()
        costs = self.allowance.slopes(self._multipliers)
        costs = np.where(costs > 0, costs, costs.max(initial=0) * 1e-12 + 1e-300)
        return norms * np.sqrt(self.weighting(norms) / costs)

    def _envelope_factors(self, strength: float) -> np.ndarray:
        """The convex penalty's factors, with the costs linear around the current multipliers."""
        norms = self._norms()
        u = self._multipliers
        binding = max(
            self.allowance.costs,
            key=lambda m: self.allowance.costs[m](u) / self.allowance.limits[m],
        )
        cost, limit = self.allowance.costs[binding], self.allowance.limits[binding]
        costs = cost.gradient(u)
        options = {
            "step": strength,
            "weights": torch.from_numpy(np.array(self.weighting(norms))),
            "costs": torch.from_numpy(costs),
        }
        level = float(limit - cost(u) + costs @ u)
        values = torch.from_numpy(norms)
        self._multipliers = envelope.multipliers(values, level, **options).numpy()
        return envelope.prox(values, level, **options).numpy()

    def _one_rate(self) -> float:
        grouped = {id(member.parameter) for member in self.groups.members}
        rates = {float(lr) for p, lr in self._rates() if id(p) in grouped}
        if len(rates) > 1:
            raise ValueError(
                f"penalty='envelope' needs one learning rate for all grouped parameters, got "
                f"{sorted(rates)}; the firm penalty doesn't"
            )
        return rates.pop()

    @torch.no_grad()
    def _apply_mask_(self) -> None:
        assert self._mask is not None
        for member in self.groups.members:
            member.scale_(self._mask)

    # -- the contract of torch.optim ------------------------------------------------------------------

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
        """The wrapped optimizer's state, and ours under "proximal"."""
        ours = {
            "groups": len(self.groups),
            "steps_taken": self.steps_taken,
            "multipliers": torch.from_numpy(self._multipliers.copy()),
            "threshold": self._threshold,
            "frozen": self.frozen,
        }
        if hasattr(self.weighting, "mean"):
            ours["curvature"] = (self.weighting.mean.clone(), self.weighting.seen)  # pyright: ignore
        return {**self.optimizer.state_dict(), "proximal": ours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a state_dict was taken.

        Raises:
            ValueError: the state comes from another kind of optimizer or other groups; nothing has
                been changed.
        """
        ours = state_dict.get("proximal")
        if ours is None:
            raise ValueError(
                "this state_dict was not taken from secateur.Proximal (it has no 'proximal' entry); "
                "load it into the wrapped optimizer before wrapping"
            )
        if ours["groups"] != len(self.groups):
            raise ValueError(
                "this state_dict belongs to other groups\n"
                f"  expected {len(self.groups)} groups\n  found    {ours['groups']}"
            )
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != "proximal"})
        self.steps_taken = int(ours["steps_taken"])
        self._multipliers = ours["multipliers"].cpu().double().numpy().copy()
        self._threshold = ours["threshold"]
        self._mask = None
        if ours["frozen"]:
            self._freeze_on(self._multipliers)
        if "curvature" in ours and hasattr(self.weighting, "mean"):
            mean, self.weighting.seen = ours["curvature"]  # pyright: ignore
            self.weighting.mean.copy_(mean)  # pyright: ignore

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __repr__(self) -> str:
        return (
            f"Proximal({self.budget}, {len(self.groups)} groups, penalty={self.penalty!r}, "
            f"{self.schedule})\naround {self.optimizer!r}"
        )


def _check_parts(optimizer: Any, groups: Any, budget: Any, every: int) -> None:
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, Proximal):
        raise TypeError(f"Proximal wraps an optimizer of torch, got {type(optimizer).__name__}")
    if not isinstance(groups, Groups) or not isinstance(budget, Budget):
        raise TypeError(
            "Proximal(optimizer, groups, budget): expected Groups and a Budget, got "
            f"{type(groups).__name__} and {type(budget).__name__}"
        )
    if every < 1:
        raise ValueError(f"every={every}: a number of steps, 1 or more")
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [m.name for m in groups.members if id(m.parameter) not in optimized]
    if missing:
        raise ValueError(
            f"{', '.join(missing[:5])} {'is' if len(missing) == 1 else 'are'} grouped but not in the "
            "optimizer; pass all of the model's parameters to it, or ignore= their modules"
        )


def _schedule(
    penalty: str, steps: int | None, schedule: Any, lam: float | None
) -> Homotopy | Constant:
    if penalty not in ("firm", "envelope"):
        raise ValueError(f"penalty={penalty!r}: expected 'firm' or 'envelope'")
    if schedule is not None and (steps is not None or lam is not None):
        raise ValueError("give schedule=, or steps= / lam=, not both")
    if penalty == "envelope":
        found = Constant(lam) if lam is not None else schedule
        if not isinstance(found, Constant):
            raise ValueError("penalty='envelope' needs lam=, or schedule=Constant(lam)")
        return found
    if lam is not None:
        raise ValueError(
            "lam= belongs to penalty='envelope'; the firm penalty has no lambda to tune"
        )
    if schedule is None:
        if steps is None:
            raise ValueError(
                "Proximal: say how long training is, steps=epochs * len(loader), or pass a schedule="
            )
        return Homotopy(steps)
    if not isinstance(schedule, Homotopy):
        raise ValueError(f"penalty='firm' needs a Homotopy schedule, got {type(schedule).__name__}")
    return schedule
