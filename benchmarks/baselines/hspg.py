"""Half-space stochastic projected gradient, to compare with: group lasso with a surer zero.

In: parameters, groups and lambda. Out: stochastic steps that set whole groups to zero; how many
depends on lambda, there is no budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from baselines.group_lasso import shrink
from secateur.groups import Groups
from secateur.optim.gradients import refuse_bad, refuse_sparse
from secateur.optim.importance import Fixed

Closure = Callable[[], Any]


class HSPG(Optimizer):
    """Minimise loss + lam sum_j sqrt(d_j) ||x_j|| over groups x_j, in two stages.

    The first `switch` steps are proximal stochastic gradient steps. From then on, groups at zero
    stay there; each other group takes a gradient step t_j on loss and penalty together, and is set
    to zero if that has left the half-space around where it was:

        <t_j, x_j> < epsilon ||x_j||^2

    With noisy gradients and a small learning rate this zeroes more groups than the proximal step,
    whose zeros lie in a ball of radius lr lam only. Begun too early, groups are lost that matter.

    Args:
        params: parameters, or groups of them; those in no group of `groups` are not penalised.
        groups: which parameters live and die together.
        lr: the learning rate, one for all.
        lam: lambda, 0 or more.
        switch: after how many steps the second stage begins.
        epsilon: in [0, 1): how much of itself a group must retain in one step.
        importance: d, a number or a tensor of shape (m,), above 0.

    Raises:
        ValueError: a value out of its bounds, or a grouped parameter that isn't optimized.

    Example:
        >>> import secateur as sc
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> groups = sc.custom(model, {"weight": torch.arange(2).reshape(1, 2)})
        >>> optimizer = HSPG(model.parameters(), groups, lr=0.5, lam=0.1, switch=0)
        >>> model(torch.tensor([[3.0, 0.1]])).sum().backward()
        >>> optimizer.step()
        >>> groups.alive()
        tensor([False,  True])

    Source: Chen, Wang, Ding, Zhu, Liu, Ji, Fang, "A half-space stochastic projected gradient method
    for group-sparsity regularization", arXiv 2009.12078.
    """

    def __init__(
        self,
        params: Any,
        groups: Groups,
        *,
        lr: float,
        lam: float,
        switch: int,
        epsilon: float = 0.0,
        importance: float | Tensor = 1.0,
    ) -> None:
        if not float(lr) >= 0 or not float(lam) >= 0:
            raise ValueError(f"HSPG(lr={lr!r}, lam={lam!r}): numbers of 0 or more")
        if not 0 <= epsilon < 1:
            raise ValueError(f"HSPG(epsilon={epsilon!r}): a number in [0, 1)")
        if not isinstance(switch, Integral) or switch < 0:
            raise ValueError(f"HSPG(switch={switch!r}): a number of steps, 0 or more")
        super().__init__(params, {"lr": lr, "lam": lam, "steps_taken": 0})
        self.groups, self.switch, self.epsilon = groups, int(switch), epsilon
        self.importance = Fixed(importance, groups)
        self._refuse_missing()

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # pyright: ignore
        """One step of the stage that training is in.

        Raises:
            FloatingPointError: a gradient holds NaN or inf; nothing has been changed.
            ValueError: several learning rates.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        named = [(member.name, member.parameter) for member in self.groups.members]
        refuse_sparse(named)
        refuse_bad(self.param_groups, named, f"step {self.param_groups[0]['steps_taken'] + 1}")
        rate, lam = self._one("lr"), self._one("lam")
        if self.param_groups[0]["steps_taken"] < self.switch:
            self._proximal_step_(rate, rate * lam)
        else:
            self._half_space_step_(rate, lam)
        for group in self.param_groups:
            group["steps_taken"] += 1
        return loss

    def _proximal_step_(self, rate: float, step: float) -> None:
        self._descend_(rate)
        self.groups.scale_(torch.from_numpy(self._shrunk(self._norms(), step)))

    def _half_space_step_(self, rate: float, lam: float) -> None:
        before = self._norms()
        alive = before > 0
        self._add_to_gradients_(lam * self._pull(before))
        gradients = self._squares([member.parameter.grad for member in self.groups.members])
        self._descend_(rate)
        after = self._norms()
        # <t, x> from three norms, as t - x = -lr * gradient
        inner = (before**2 + after**2 - rate**2 * gradients) / 2
        stays = alive & (inner >= self.epsilon * before**2)
        self.groups.scale_(torch.from_numpy(stays.astype(float)))

    def _shrunk(self, norms: np.ndarray, step: float) -> np.ndarray:
        """The factors of the penalty's proximal step."""
        return shrink(norms, self.importance(norms), step)

    def _pull(self, norms: np.ndarray) -> np.ndarray:
        """The penalty's gradient with respect to group j, as a multiple of the group itself."""
        return np.sqrt(self.importance(norms)) / np.where(norms > 0, norms, np.inf)

    def _add_to_gradients_(self, pull: np.ndarray) -> None:
        """Add pull_j x_j: the gradient of the penalty where a group is not zero."""
        padded = torch.from_numpy(np.append(pull, 0.0))  # nothing for what is in no group
        for member in self.groups.members:
            p = member.parameter
            if p.grad is not None:
                p.grad.add_(member.spread(padded.to(p.device)).to(p.dtype) * p)

    def _descend_(self, rate: float) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=rate)

    def _norms(self) -> np.ndarray:
        return np.sqrt(self._squares())

    def _squares(self, tensors: Sequence[Tensor | None] | None = None) -> np.ndarray:
        return self.groups.squares(tensors).cpu().double().numpy()

    def _one(self, option: str) -> float:
        values = {float(group[option]) for group in self.param_groups}
        if len(values) > 1:
            raise ValueError(f"HSPG wants one {option} for all parameters, got {sorted(values)}")
        return values.pop()

    def _refuse_missing(self) -> None:
        optimized = {id(p) for group in self.param_groups for p in group["params"]}
        missing = [m.name for m in self.groups.members if id(m.parameter) not in optimized]
        if missing:
            raise ValueError(f"grouped but not in the optimizer: {', '.join(missing[:5])}")
