"""How labels move through an operator: one rule per family of aten operators.

In: one operator call and the labels of its arguments. Out: the labels of its results, new ties, and
what had to be protected. A family that nobody wrote a rule for protects whatever labels it touches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.tracing.labels import Labels, Operator
from secateur.tracing.rules import (
    contraction,
    creation,
    expert_products,
    movement,
    normalisation,
    pointwise,
    reduction,
    writing,
)
from secateur.tracing.rules.call import RULES, Call, Rule, unknown

__all__ = [
    "Call",
    "apply",
    "contraction",
    "creation",
    "expert_products",
    "movement",
    "normalisation",
    "pointwise",
    "reduction",
    "writing",
]


def apply(labels: Labels, call: Call) -> None:
    """Let `labels` follow one operator call."""
    if call.name in creation.ZEROS:
        creation.zeros(labels, call)
    elif call.name in creation.CONSTANTS:
        creation.constants(labels, call)
    elif not any(labels.planes(tensor) for tensor in call.inputs):
        _pass_nothing(labels, call)
    elif writing.fills_buffer(labels, call):
        pass
    else:
        moves = torch.Tag.inplace_view in call.func.tags  # changes a shape, writes no memory
        before = [] if moves else [(target, labels.planes(target)) for target in call.written]
        try:
            _rule_for(call)(labels, call)
        except Exception:  # a form of the operator that its rule did not expect
            unknown(labels, call)
        _check_aliases(labels, before)
    _record_flops_if_missing(labels, call)


def _rule_for(call: Call) -> Rule:
    if torch.Tag.inplace_view in call.func.tags:
        return RULES.get(call.name, unknown)
    chosen = RULES.get(call.name) or RULES.get(call.name.removesuffix("_"))
    if chosen is None:
        chosen = pointwise.pointwise if torch.Tag.pointwise in call.func.tags else unknown
    return chosen


def _record_flops_if_missing(labels: Labels, call: Call) -> None:
    """Contractions record their own operator; anything else that costs FLOPs costs a constant."""
    if call.name not in contraction.CONTRACTIONS and (flops := call.flops()):
        labels.operators.append(Operator(call.name, flops))


def _pass_nothing(labels: Labels, call: Call) -> None:
    is_data = labels.any_data(call.inputs)
    for out in call.outputs:
        if is_data or not labels.knows(out):
            labels.put(out, [], is_data=is_data)
    if call.name in contraction.CONTRACTIONS and (flops := call.flops()):
        labels.operators.append(Operator(call.name, flops))


def _check_aliases(labels: Labels, before: list[tuple[Tensor, list[Tensor]]]) -> None:
    """A write into memory that other tensors share must not change what their labels mean."""
    for target, old in before:
        new = labels.planes(target)
        if len(old) == len(new) and all(any(torch.equal(a, b) for b in new) for a in old):
            continue
        for other in labels.sharing(target):
            labels.protect([*labels.planes(other), *old, *new], "is written through a view")
