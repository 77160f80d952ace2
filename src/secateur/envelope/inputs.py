"""What every function of this room does first: check the arguments and bring them to one precision.

In: norms (..., m), a level, weights, costs. Out: a `Problem` in float64 (float32 on a device that
has no float64), whose level is NaN in every row that holds a value no answer can be given for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Scalar = float | int | Tensor
DEVICES_WITHOUT_FLOAT64 = ("mps",)


@dataclass(frozen=True)
class Problem:
    """Checked arguments: norms (..., m), level (...,), weights and costs broadcast to norms."""

    given: Tensor  # the norms, in their own dtype, and likewise
    level: Tensor
    given_weights: Tensor
    given_costs: Tensor

    @cached_property
    def weights(self) -> Tensor:
        """The weights in the working precision."""
        return self.given_weights.to(self.level.dtype)

    @cached_property
    def costs(self) -> Tensor:
        """The costs in the working precision."""
        return self.given_costs.to(self.level.dtype)

    def lines(self, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the loops' `shrunk` takes, with an offset (...,)."""
        return self.given, offset.unsqueeze(-1), self.given_costs, self.given_weights, self.level

    @cached_property
    def norms(self) -> Tensor:
        """The norms in the working precision."""
        return self.given.to(self.level.dtype)

    @cached_property
    def slope(self) -> Tensor:
        """norms sqrt(weights / costs), (..., m), up to a factor that all groups share."""
        if self.weights.numel() == 1 == self.costs.numel():
            return self.norms
        return self.norms * (self.weights / self.costs).sqrt()


def read(
    function: str,
    norms: Tensor,
    level: Scalar,
    weights: Scalar,
    costs: Scalar,
    *,
    signed: bool = False,
) -> Problem:
    """Check the arguments that all functions of this room share.

    Numbers, and tensors on the CPU, are refused with a ValueError. Looking into a tensor on
    another device would make the host wait for it, so there a bad value makes its row NaN.

    Args:
        function: name of the caller, for the messages.
        norms: (..., m) group norms, any floating dtype.
        level: number or (...,), the budget.
        weights: number or tensor that broadcasts to norms.
        costs: number or tensor that broadcasts to norms.
        signed: whether the norms are single weights with their signs, for compiled loops.

    Returns:
        The problem. Its level is NaN where a row of norms, weights or costs is not finite.

    Raises:
        TypeError: norms is no floating tensor, or another argument neither number nor real tensor.
        ValueError: a value or a shape is out of bounds, or the sum of costs is.
    """
    if not isinstance(norms, Tensor) or not norms.is_floating_point():
        given = norms.dtype if isinstance(norms, Tensor) else type(norms).__name__
        raise TypeError(
            f"{function}(norms: {given}): expected a floating tensor of shape (..., m); "
            "convert it first, e.g. norms.float()."
        )
    if norms.ndim == 0:
        raise ValueError(
            f"{function}(norms of shape ()): expected (..., m), one norm a group; "
            "for a single group pass norms.unsqueeze(0)."
        )
    norms = norms.detach()
    weights = _per_group(function, "weights", weights, norms)
    costs = _per_group(function, "costs", costs, norms)
    level = per_row(function, "level", level, norms)
    _refuse(function, "level", level, level <= 0, "above 0: it is how much may be kept")
    sound = (
        _sound_norms(function, norms, signed=signed)
        & _sound_rows(function, "weights", weights, strict=True)
        & _sound_rows(function, "costs", costs, strict=True)
        & _sound_total(function, costs, norms)
        & (level > 0)
    )
    return Problem(norms, torch.where(sound, level, torch.nan), weights, costs)


def per_row(function: str, name: str, value: Scalar, norms: Tensor) -> Tensor:
    """Give `value`, a number or (...,), the shape (...,) and the precision to work in."""
    rows = norms.shape[:-1]
    tensor = _as_tensor(function, name, value, norms)
    if _expands_to(tensor, rows):
        return tensor.expand(rows)
    raise ValueError(
        f"{function}: {name} has shape {tuple(tensor.shape)},\n"
        f"{' ' * len(function)}  norms has shape {tuple(norms.shape)}:\n"
        f"expected one {name} a row of norms, a number or shape {tuple(rows)}."
    )


def read_between(
    function: str, name: str, value: Scalar, norms: Tensor, low: float, high: float
) -> Tensor:
    """Read a finite number or (...,) in [low, high]; NaN where a device value is none."""
    tensor = per_row(function, name, value, norms)
    outside = (tensor < low) | (tensor > high) | tensor.isinf()
    bounds = f"in [{low:g}, {high:g}]" if high < torch.inf else f"finite, and {low:g} or more"
    _refuse(function, name, tensor, outside, bounds)
    return torch.where(outside, torch.nan, tensor)


def read_step(function: str, step: Scalar, problem: Problem) -> Tensor:
    """Read the step of a problem, finite and 0 or more; NaN where a device value is none.

    Its products with weights and costs add up to a finite number, too: they are what is solved for.
    """
    tensor = read_between(function, "step", step, problem.given, 0, math.inf)
    if not problem.given.shape[-1]:
        return tensor
    largest = (x.amax(-1) if x.ndim else x for x in (problem.given_weights, problem.given_costs))
    weight, cost = (x.to(tensor.dtype) for x in largest)  # without a copy of them all
    total = tensor * weight * cost * problem.given.shape[-1]
    expected = "to be finite: make the step, or weights and costs, smaller"
    _refuse(function, "sum of step * weights * costs", total, total.isinf(), expected)
    return torch.where(total.isinf(), torch.nan, tensor)


def _working_dtype(device: torch.device) -> torch.dtype:
    """Float64: sums of costs that span six orders of magnitude lose the fifth digit in float32."""
    return torch.float32 if device.type in DEVICES_WITHOUT_FLOAT64 else torch.float64


def _as_tensor(
    function: str, name: str, value: Scalar, like: Tensor, keep: tuple[torch.dtype, ...] = ()
) -> Tensor:
    """Bring a value beside `like`; a number is filled in on the device, which waits for nothing.

    It gets the dtype to work in, if it isn't of one to keep.
    """
    dtype = _working_dtype(like.device)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        beyond = abs(value) > torch.finfo(dtype).max
        number = math.copysign(math.inf, value > 0 or -1) if beyond else float(value)
        if math.isnan(number) or (math.isinf(number) and name != "level"):
            expected = "a finite number; check how it was made"
            raise ValueError(f"{function}({name}={number:g}): expected {expected}.")
        return torch.full((), number, dtype=dtype, device=like.device)
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is None or tensor.dtype == torch.bool or tensor.is_complex():
        given = tensor.dtype if tensor is not None and tensor.ndim else repr(value)
        raise TypeError(
            f"{function}({name}={given}): expected a real number or a tensor of them; "
            f"convert it first, e.g. float({name}) or {name}.float()."
        )
    return tensor.to(like.device, tensor.dtype if tensor.dtype in keep else dtype)


def _expands_to(tensor: Tensor, shape: torch.Size) -> bool:
    if tensor.ndim > len(shape):
        return False
    trailing = shape[len(shape) - tensor.ndim :]
    return all(mine in (1, theirs) for mine, theirs in zip(tensor.shape, trailing, strict=True))


def _per_group(function: str, name: str, value: Scalar, norms: Tensor) -> Tensor:
    """Bring weights or costs beside the norms, unexpanded: a number stays cheap to compute with."""
    tensor = _as_tensor(function, name, value, norms, keep=(torch.float32,))
    if _expands_to(tensor, norms.shape):
        return tensor
    raise ValueError(
        f"{function}: {name} has shape {tuple(tensor.shape)},\n"
        f"{' ' * len(function)}  norms has shape {tuple(norms.shape)}:\n"
        f"expected a number or a tensor of {name} that broadcasts to the shape of norms."
    )


def _sound_norms(function: str, norms: Tensor, *, signed: bool) -> Tensor:
    """Say which rows of norms are finite and, but for single weights, not negative."""
    if signed:  # the compiled loops look at all numbers as they find the root
        return torch.ones(norms.shape[:-1], dtype=torch.bool, device=norms.device)
    return _sound_rows(function, "norms", norms, strict=False)


def _sound_rows(function: str, name: str, values: Tensor, *, strict: bool) -> Tensor:
    """Say which rows are finite and not negative (positive if `strict`)."""
    low, high = values, values
    if values.ndim > 0:
        if values.shape[-1] == 0:
            return torch.ones(values.shape[:-1], dtype=torch.bool, device=values.device)
        low, high = values.amin(-1), values.amax(-1)  # aminmax(dim=-1) takes 20 times as long
    wrong = low <= 0 if strict else low < 0
    bound = "above 0" if strict else "0 or more"
    _refuse(function, name, low, wrong, f"{bound} for every group")
    return ~wrong & high.isfinite()


def _sound_total(function: str, costs: Tensor, norms: Tensor) -> Tensor:
    """Say which rows have costs whose sum is finite."""
    readable = costs.device.type == "cpu" and costs.numel() > 0
    if readable and float(costs.amax()) * norms.shape[-1] < torch.finfo(torch.float64).max:
        return torch.ones((), dtype=torch.bool)  # without a copy of them
    alike = not costs.ndim or costs.shape[-1] == 1
    total = costs.to(_working_dtype(norms.device))
    total = (total.sum(-1) if costs.ndim else total) * (norms.shape[-1] if alike else 1)
    if total.device.type == "cpu" and bool(total.isinf().any()):
        each = costs.isfinite().all(-1) if costs.ndim else costs.isfinite()
        expected = "to be finite: divide costs and level by the same number"
        _refuse(function, "costs.sum()", total, total.isinf() & each, expected)
    return total.isfinite()


def _refuse(function: str, name: str, values: Tensor, wrong: Tensor, expected: str) -> None:
    if values.device.type == "cpu" and bool(wrong.any()):
        given = values[wrong].flatten()[0].item()
        raise ValueError(f"{function}({name}={given:g}): expected {name} {expected}.")
