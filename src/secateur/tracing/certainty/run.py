"""What of a run depends on the model alone: proof that removed channels leave nothing else behind.

In: a model whose dead groups are zero, and example inputs. Out: the groups among them of which a
value is read that is no function of the parameters alone: it met an input, a mask, a number of
positions, padding or a fill. Beside each tensor ride two masks that broadcast to it: where its
value is uncertain, and to which dead group each entry belongs (the rules of this room move them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.tracing.certainty import entrywise, mixing
from secateur.tracing.certainty.facts import RULES, Fact, Facts
from secateur.tracing.labels import compress
from secateur.tracing.plain_run import plain_run
from secateur.tracing.rules.call import Call
from secateur.utils.contexts import tensors_in
from secateur.utils.forward import arguments, examples_of, full_precision

__all__ = ["entrywise", "mixing", "uncertain"]


def uncertain(model: nn.Module, example: Any, dead: Mapping[str, Tensor]) -> dict[int, str]:
    """The dead groups of which something is read that depends on more than the parameters.

    Args:
        model: with the dead groups at zero.
        example: its inputs, or several in a list.
        dead: parameter or buffer -> the dead group of each entry (-1: none), which broadcasts
            against it.

    Returns:
        group -> what its value met.
    """
    found: dict[int, str] = {}
    for own in examples_of(example):
        found = _uncertain(model, own, dead) | found
    return dict(sorted(found.items()))


def _uncertain(model: nn.Module, example: Any, dead: Mapping[str, Tensor]) -> dict[int, str]:
    """The same on one example."""
    args, kwargs = arguments(example)
    mode = _Certainty()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        groups = dead.get(name)
        mode.facts[tensor] = Fact.of_model(tensor, groups)
    for tensor in tensors_in((args, kwargs)):
        mode.facts[tensor] = Fact.unknown(tensor, "the model's inputs")
    with plain_run(model, example), full_precision(), mode:
        outputs = model(*args, **kwargs)
        return dict(frozenset().union(*(mode.fact(x).blamed for x in tensors_in(outputs))))


class _Certainty(TorchDispatchMode):
    """Runs every operator, and says of its results what they depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = WeakTensorKeyDictionary()
        self.asked = False  # whether the code has read a number that depends on inputs

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        call = Call(func, args, kwargs or {}, None)
        inputs = {id(tensor): self.fact(tensor) for tensor in call.inputs}
        given = Facts(call, inputs, asked=self.asked)
        self.asked |= call.name == "_local_scalar_dense" and not given.pure
        made = _follow(given)  # before it runs, as it may write into its inputs
        out = func(*args, **(kwargs or {}))
        written = {id(tensor) for tensor in call.written}
        for position, tensor in enumerate(
            leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)
        ):
            fact = made[position] if position < len(made) else None
            fact = fact or given.lost(tensor)
            if not fact.fits(tensor):
                fact = given.lost(tensor)
            if id(tensor) in written:
                self._write(tensor, fact)
            self.facts[tensor] = fact
        return out

    def fact(self, tensor: Tensor) -> Fact:
        """What is known of a tensor; one that no operator made is a constant of the model.

        Unless it is another name of something known (`x.data`).
        """
        found = self.facts.get(tensor)
        if found is None:
            others = self._sharing(tensor)
            found = Fact.of_model(tensor, None)
            if any(bool(self.facts[other].unknown_at.any()) for other in others):
                same = [x for x in others if _place(x) == _place(tensor)]
                found = self.facts[same[0]] if same else Fact.unknown(tensor, "a view of an input")
            self.facts[tensor] = found
        return found

    def _sharing(self, tensor: Tensor) -> list[Tensor]:
        storage = tensor.untyped_storage()._cdata
        return [
            other
            for other in list(self.facts.keys())
            if other is not tensor and other.untyped_storage()._cdata == storage
        ]

    def _write(self, target: Tensor, fact: Fact) -> None:
        """What shares memory with a tensor that was written into shows the same."""
        for other in self._sharing(target):
            before = self.facts[other]
            if _place(other) == _place(target):
                self.facts[other] = fact
            elif other.dtype != target.dtype:
                self.facts[other] = Fact.unknown(other, fact.why, before.blamed | fact.blamed)
            else:
                size = target.untyped_storage().nbytes() // target.element_size()
                masks = []
                for mine, its in (
                    (fact.unknown_at, before.unknown_at),
                    (fact.groups, before.groups),
                ):
                    memory = torch.zeros(size, dtype=its.dtype, device=its.device)
                    view = memory.as_strided(*_place(other))
                    view.copy_(its.expand(other.shape))
                    memory.as_strided(*_place(target)).copy_(mine.expand(target.shape))
                    masks.append(compress(view.clone()))
                self.facts[other] = Fact(
                    masks[0],
                    masks[1],
                    before.pure and fact.pure,
                    before.why or fact.why,
                    before.blamed | fact.blamed,
                )


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def _follow(facts: Facts) -> Sequence[Fact | None]:
    """The facts about the results of a call; None where nothing is known."""
    name = facts.call.name
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None and torch.Tag.nondeterministic_seeded in facts.call.func.tags:
        return ()
    if rule is None and torch.Tag.pointwise in facts.call.func.tags:
        rule = entrywise.pointwise
    if rule is None:
        return ()
    try:
        return rule(facts)
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError):
        return ()  # a form of the operator that its rule did not expect
