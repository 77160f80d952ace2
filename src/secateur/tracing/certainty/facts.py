"""What is known of a tensor, and the table of rules that say how that moves through an operator.

In: an operator call and the facts about its arguments. Out: what its rule needs to make those of
its results. An operator without a rule loses all certainty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.tracing.labels import compress
from secateur.tracing.rules.call import Call


@dataclass(frozen=True)
class Fact:
    """What is known of a tensor; both masks broadcast to it and have as many dimensions.

    Attributes:
        unknown_at: bool, where the value depends on more than the parameters.
        groups: int64, the dead group of each entry; -1 for none.
        pure: whether it was made of parameters and constants alone, at a size that they give.
        why: what took its certainty away.
        blamed: dead groups of which it read what is unknown, and why.
    """

    unknown_at: Tensor
    groups: Tensor
    pure: bool
    why: str = ""
    blamed: frozenset[tuple[int, str]] = frozenset()

    @classmethod
    def of_model(cls, tensor: Tensor, groups: Tensor | None) -> Fact:
        """A parameter or a constant of the model."""
        known = _filled(tensor, False)
        none = torch.full([1] * tensor.ndim, -1, device=tensor.device)
        return cls(known, none if groups is None else groups.to(tensor.device), True)

    @classmethod
    def unknown(
        cls, tensor: Tensor, why: str, blamed: frozenset[tuple[int, str]] = frozenset()
    ) -> Fact:
        none = torch.full([1] * tensor.ndim, -1, device=tensor.device)
        return cls(_filled(tensor, True), none, False, why, blamed)

    def fits(self, tensor: Tensor) -> bool:
        """Whether the masks broadcast to a tensor."""
        return all(
            mask.ndim == tensor.ndim
            and all(a in (1, b) for a, b in zip(mask.shape, tensor.shape, strict=True))
            for mask in (self.unknown_at, self.groups)
        )


def _filled(tensor: Tensor, value: bool) -> Tensor:
    return torch.full([1] * tensor.ndim, value, device=tensor.device)


class Operand:
    """A tensor that an operator reads, and what is known of it.

    Attributes:
        zero: where it is known to be zero.
        full: where it may be something else.
        constant: where it is known and may be something else.
    """

    def __init__(self, tensor: Tensor, fact: Fact) -> None:
        self.tensor, self.fact = tensor, fact
        self.unknown, self.groups = fact.unknown_at, fact.groups

    @cached_property
    def zero(self) -> Tensor:
        if bool(self.unknown.all()):
            return torch.zeros_like(self.unknown)
        if self.fact.pure or self.unknown.numel() == 1:
            return compress((self.tensor == 0) & ~self.unknown)
        sizes = zip(self.unknown.shape, self.tensor.shape, strict=True)
        shared = [dim for dim, (mine, whole) in enumerate(sizes) if mine != whole]
        return ~(any_along(self.tensor != 0, shared) | self.unknown)  # all of a channel, or none

    @cached_property
    def full(self) -> Tensor:
        return ~self.zero

    @cached_property
    def constant(self) -> Tensor:
        return self.full & ~self.unknown

    def is_uniform(self, dims: list[int]) -> Tensor:
        """Where all values along some dimensions are equal."""
        x = self.tensor.real if self.tensor.is_complex() else self.tensor
        x = x.to(torch.uint8) if x.dtype == torch.bool else x
        return x.amax(dims, keepdim=True) == x.amin(dims, keepdim=True)

    def uneven(self, constant: Tensor, dims: list[int]) -> Tensor:
        """Where values that are known along some dimensions differ there."""
        return constant & ~self.is_uniform(dims) if bool(constant.any()) else constant


class Facts:
    """One call, and what is known of its arguments."""

    def __init__(self, call: Call, facts: dict[int, Fact], *, asked: bool) -> None:
        self.call, self.asked = call, asked
        self.blamed = frozenset().union(*(fact.blamed for fact in facts.values()))
        self.of = {id(t): Operand(t, facts[id(t)]) for t in call.inputs}
        self.operands = [self.of[id(t)] for t in call.inputs]
        self.pure = all(operand.fact.pure for operand in self.operands)

    def argument(self, name: str) -> Operand | None:
        value = self.call.argument(name) if self.call.has(name) else None
        return self.of[id(value)] if isinstance(value, Tensor) else None

    def make(self, unknown: Tensor, groups: Tensor, *, pure: bool | None = None) -> Fact:
        """The fact about a result."""
        unknown, groups = compress(unknown), compress(groups)
        pure = self.pure if pure is None else pure
        why = next((x.fact.why for x in self.operands if x.fact.why), "")
        if bool((unknown & (groups >= 0)).any()) and not any(
            bool((x.unknown & (x.groups >= 0)).any()) for x in self.operands
        ):
            why = self.call.name.strip("_")
        return Fact(unknown, groups, pure, why, self.blamed)

    def lost(self, tensor: Tensor) -> Fact:
        """What is known of the result of an operator without a rule."""
        if self.pure and self.operands:
            return Fact.of_model(tensor, None)
        return Fact.unknown(tensor, self.call.name.strip("_"), self.blamed)

    def blame(self, operand: Operand, where: Tensor) -> None:
        """Dead entries are read at `where`, and depend on more than the parameters."""
        bad = where & (operand.groups >= 0)
        if bool(bad.any()):
            groups = operand.groups.expand(bad.shape)[bad].unique().tolist()
            whys = [operand.fact.why, *(x.fact.why for x in self.operands)]
            why = next((why for why in whys if why), self.call.name.strip("_"))
            self.blamed |= {(group, why) for group in groups}


Rule = Callable[[Facts], Sequence[Fact | None]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def lifted(masks: Iterable[Tensor]) -> list[Tensor]:
    """Masks with the same number of dimensions, as broadcasting aligns them."""
    masks = list(masks)
    depth = max((mask.ndim for mask in masks), default=0)
    return [mask.reshape((1,) * (depth - mask.ndim) + tuple(mask.shape)) for mask in masks]


def any_of(masks: Iterable[Tensor]) -> Tensor:
    first, *others = lifted(masks)
    for mask in others:
        first = first | mask
    return first


def most(groups: Iterable[Tensor]) -> Tensor:
    first, *others = lifted(groups)
    for mask in others:
        first = torch.maximum(first, mask)
    return first


def any_along(mask: Tensor, dims: Sequence[int]) -> Tensor:
    """Whether any entry along some dimensions is true, which keep size 1."""
    for dim in dims:
        mask = mask.any(dim, keepdim=True)
    return mask
