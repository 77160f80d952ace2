"""`refit`: the optimizer goes on with the small network, its moments cut as the parameters were.

In: the optimizer of the full network, that network and the small one. Out: the same optimizer,
holding the small network's parameters; schedulers attached to it keep working.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.optim import Proximal
from secateur.optim.chained import parts_of
from secateur.shrinking.narrow_convolutions import ISSUE, trained_wrongly
from secateur.surgery.module_removal import name_before
from secateur.surgery.plan import Plan, plan_of
from secateur.utils.forward import unwrapped
from secateur.utils.name_trees import is_inside

Kept = dict[int, Tensor]  # dimension -> the indices that the small network still has


def refit(optimizer: Optimizer, model: nn.Module, small: nn.Module) -> Optimizer:
    """Let an optimizer go on with the small network, keeping its momentum, moments and rates.

    Where training froze the dead groups at zero, the small network then takes the very steps that
    the full one would have taken, up to rounding, at the small network's cost (but for optimizers
    whose step goes by a tensor's shape, such as Muon).

    Args:
        optimizer: the optimizer of `model`, of torch.optim or in its style, or a `Proximal`: its
            work is done, and the optimizer that it wraps goes on. Changed in place.
        model: the network that was shrunk, as it was given to `shrink`.
        small: what `shrink` returned.

    Returns:
        The optimizer, with `small`'s parameters in the same param_groups, so that learning rates
        and schedulers carry on. A bias that only `small` has joins its layer's weight, or other
        vectors where that one is among matrices; what left with a branch, a block or an expert
        leaves the optimizer.

    Warns:
        RuntimeWarning: the small network has a convolution so narrow that torch trains it wrongly
            on this CPU in channels-last memory.

    Raises:
        ValueError: the optimizer has parameters of another model, `small` was not cut out of
            `model`, or the optimizer's state isn't kept element by element (LBFGS, Adafactor); the
            optimizer is as it was.

    Example:
        >>> import secateur as sc
        >>> from secateur.shrinking import shrink
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> adam = torch.optim.Adam(model.parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> adam.step()
        >>> groups = sc.neurons(model, torch.ones(1, 4))
        >>> _ = groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1]))
        >>> small = shrink(model, groups)
        >>> adam = refit(adam, model, small)
        >>> adam.state[small[0].weight]["exp_avg"].shape
        torch.Size([3, 4])
    """
    proximal = optimizer if isinstance(optimizer, Proximal) else None
    optimizer = proximal.optimizer if proximal else optimizer
    model = unwrapped(model)
    earlier, plan = plan_of(model) or Plan(), _plan_of(small)
    names = {p: name_before(name, earlier.out) for name, p in model.named_parameters()}
    parameters = {name_before(name, plan.out): p for name, p in small.named_parameters()}
    added = parameters.keys() - set(names.values())
    kept = _kept_since(earlier, plan)
    remembered, state = optimizer.state, {}
    param_groups = optimizer.param_groups
    lists: list[list[Tensor]] = [[] for _ in param_groups]
    for number, group in enumerate(param_groups):
        for old in group["params"]:
            name = _name_of(old, names)
            if name not in parameters and is_inside(name, plan.absent):
                continue  # it left with its branch or block
            if name not in parameters:
                raise ValueError(
                    f"refit: the small network has no {name}; pass what shrink(model) returned"
                )
            lists[number].append(parameters[name])
            if old in remembered:
                state[parameters[name]] = {
                    key: _cut(value, old, parameters[name], kept.get(name, {}), f"{key} of {name}")
                    for key, value in remembered[old].items()
                }
            if (bias := f"{name.removesuffix('weight')}bias") in added:
                lists[_home_of_bias(param_groups, number)].append(parameters[bias])
    for group, chosen in zip(param_groups, lists, strict=True):
        group["params"] = chosen
    for part in parts_of(optimizer):
        mine = [p for group in part.param_groups for p in group["params"] if p in state]
        part.state.clear()
        part.state.update({p: state[p] for p in mine})
    if proximal:
        before = {name: name_before(name, plan.out) for name, _ in small.named_modules()}
        proximal.statistics.go_on_with(small, optimizer, before)
    if narrow := trained_wrongly(small):
        warnings.warn(
            f"on this CPU, in channels-last memory, torch's gradients of {', '.join(narrow)} "
            f"can be wrong ({ISSUE}); keep the network and its inputs contiguous, or ask for wider "
            "layers: Budget(at_least=16)",
            RuntimeWarning,
            stacklevel=2,
        )
    return optimizer


def _home_of_bias(param_groups: list[dict[str, Any]], weight: int) -> int:
    """The group that a new bias joins: its weight's, unless only others have vectors.

    What is done to matrices, such as weight decay or Muon's step, is not for a bias then.
    """
    having = [n for n, group in enumerate(param_groups) if any(p.ndim < 2 for p in group["params"])]
    return weight if weight in having or not having else having[0]


def _name_of(old: Tensor, names: dict[nn.Parameter, str]) -> str:
    """What a parameter of the optimizer is called in the full-size network."""
    name = names.get(old)  # pyright: ignore[reportArgumentType]
    if name is None:
        raise ValueError(
            f"refit: the optimizer has a parameter of shape {tuple(old.shape)} that the model has "
            "not; pass the model that the optimizer trained, as it was given to shrink"
        )
    return name


def _plan_of(small: nn.Module) -> Plan:
    plan = plan_of(small)
    if plan is None:
        raise ValueError(
            f"refit: this {type(small).__name__} has no plan; pass what secateur.shrinking returned"
        )
    return plan


def _kept_since(earlier: Plan, plan: Plan) -> dict[str, Kept]:
    """What `plan` keeps of each tensor, counted in a model that `earlier` had cut already."""
    since: dict[str, Kept] = {}
    for name, dims in plan.kept.items():
        since[name] = {dim: torch.tensor(indices, device="cpu") for dim, indices in dims.items()}
        for dim, before in earlier.kept.get(name, {}).items():
            since[name][dim] = torch.searchsorted(
                torch.tensor(before, device="cpu"), since[name][dim]
            )
    for name in earlier.biases:  # the full-size network lacks it: it follows its weight's rows
        rows = since.get(f"{name.removesuffix('bias')}weight", {}).get(0)
        since[name] = {} if rows is None else {0: rows}
    return since


def _cut(value: Any, old: Tensor, new: Tensor, kept: Kept, what: str) -> Any:
    """A piece of the optimizer's state, for the small parameter; counters and flags stay."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape == old.shape:
        for dim, indices in kept.items():
            value = value.index_select(dim, indices.to(value.device))
    if value.shape != new.shape:
        raise ValueError(
            f"refit: the optimizer's state does not follow the parameter, at {what}\n"
            f"  the state has        {tuple(value.shape)}\n"
            f"  the small network's  {tuple(new.shape)}\n"
            "  start a new optimizer on small.parameters() instead"
        )
    return value
