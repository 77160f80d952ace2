"""Taking dead groups out of a model: a plan, and the surgery that follows it.

In: a model, its groups and which of them are dead. Out: a smaller copy of the model and the `Plan`
that made it, which rebuilds the same small model from a full-size one (deploy/ saves it).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from secateur.groups.coupling import Norm
from secateur.groups.groups import Groups
from secateur.surgery.bias_folding import constants as find_constants
from secateur.surgery.bias_folding import fold_constants, unproven
from secateur.surgery.cut import cut
from secateur.surgery.forward_wrappers import only_needed
from secateur.surgery.head_sizes import ways
from secateur.surgery.leftover_zeros import all_zero, borders, staying
from secateur.surgery.module_removal import remove_from_lists
from secateur.surgery.norms import full_size_norms, numbers, rescale_
from secateur.surgery.plan import Plan, planned
from secateur.utils.comparison import largest_difference
from secateur.utils.contexts import preserve_state, tensors_in, unfused_ops
from secateur.utils.forward import arguments, calling, examples_of, full_precision
from secateur.utils.name_trees import is_inside


@dataclass(frozen=True)
class Removal:
    """What `remove` did.

    Attributes:
        model: the small model.
        plan: how it was cut.
        dead: the groups that left, bool of shape (m,).
        refused: groups that had to stay although they are dead: (layer, groups, reason).
    """

    model: nn.Module
    plan: Plan
    dead: np.ndarray
    refused: tuple[tuple[str, int, str], ...] = ()


def remove(model: nn.Module, groups: Groups, dead: np.ndarray, *, prove: bool = True) -> Removal:
    """Cut dead groups out of a copy of `model`.

    Args:
        model: a model whose dead groups are exactly zero; left as it was.
        groups: groups of a model of this shape; those that no trace ties to an axis stay as zeros,
            but for what they free between them (unread channels, the borders of kernels).
        dead: which groups to remove, bool of shape (m,).
        prove: whether groups stay of which it isn't certain that they leave the same behind on
            all inputs.

    Returns:
        The small model; a constant that a dead channel leaves behind an activation with f(0) != 0
        is folded into the bias of the layer that reads it; where that isn't exact it stays.
    """
    constants, refused = find_constants(model, groups.coupling, groups.example, dead)
    if prove:
        refused = unproven(model, groups, dead) | refused
    dead = dead.copy()
    dead[list(refused)] = False
    plan = planned(groups.coupling, groups.layers, dead)
    if groups.coarse is not None:
        unused = all_zero(groups.coarse, model, groups, dead)
        plan = plan.meet(planned(groups.coarse.coupling, (), unused))
    if groups.example is not None:
        plan = plan.meet(Plan(borders(model, groups)))
    found = groups.coupling.norms if groups.coupling else ()
    norms = [norm for norm in found if not is_inside(norm.module, plan.absent)]
    plan = replace(plan, norms=numbers(model, norms, dead))
    small, plan = _cut_out(model, groups, plan, dead, norms)
    _keep_weight_norms(small, model, plan)
    constants = {name: x for name, x in constants.items() if not is_inside(name, plan.absent)}
    plan = replace(plan, biases=tuple(fold_constants(small, model, constants, plan, dead)))
    remove_from_lists(small, plan.out)
    layer_ids = groups.layer_ids
    report = Counter(
        (groups.layers[layer_ids[group]].name, reason) for group, reason in refused.items()
    )
    stay = [(name, n, why) for (name, why), n in report.items()]
    return Removal(small, plan, dead, (*stay, *staying(groups, dead, plan.kept)))


def _cut_out(
    model: nn.Module, groups: Groups, plan: Plan, dead: np.ndarray, norms: Sequence[Norm]
) -> tuple[nn.Module, Plan]:
    """Follow a plan on a copy of `model`; where heads leave, with the numbers that run."""
    attempts = [plan]
    if groups.coupling is not None:
        found = ways(model, groups.coupling, groups.layers, dead, plan.sizes)
        attempts = [replace(plan, sizes=sizes, reshaped=names) for sizes, names in found] or [plan]
    if len(attempts) == 1:
        return _cut(model, plan := attempts[0], norms, dead), plan
    expected = _outputs(model, groups.example)
    tried = []
    for attempt in attempts:
        small = _cut(model, attempt, norms, dead)
        with full_size_norms(small, model, norms, dead):
            gap = _gap(small, groups.example, expected)
        tried.append((gap, small, attempt))
        if gap <= 1e-4:  # not only does it run; what else changed, the caller corrects
            break
    gap, small, plan = min(tried, key=lambda result: result[0])
    names = only_needed(small, plan.reshaped) if gap < math.inf else plan.reshaped
    return small, replace(plan, reshaped=names)


def _cut(model: nn.Module, plan: Plan, norms: Sequence[Norm], dead: np.ndarray) -> nn.Module:
    """Follow a plan on a copy, in which the normalisations make up for what is missing."""
    small = copy.deepcopy(model)
    cut(small, plan)
    rescale_(small, norms, dead)
    return small


def _gap(small: nn.Module, example: Any, expected: list[Tensor]) -> float:
    """How far the outputs are off (inf: it does not run)."""
    try:
        found = _outputs(small, example)
    except Exception:
        return math.inf
    if [x.shape for x in found] != [x.shape for x in expected]:
        return math.inf
    return min(largest_difference(expected, found), 1e30)  # it does run


def _outputs(model: nn.Module, example: Any) -> list[Tensor]:
    with preserve_state(model), torch.no_grad(), unfused_ops(), full_precision():
        torch.manual_seed(0)
        found: list[Tensor] = []
        for own in examples_of(example):
            args, kwargs = arguments(own)
            with calling(model, own):
                found += tensors_in(model(*args, **kwargs))
        return [x.float().nan_to_num(0) for x in found if x.is_floating_point() and x.numel()]


def _keep_weight_norms(small: nn.Module, model: nn.Module, plan: Plan) -> None:
    """A weight g v / |v| that lost part of v keeps the rest as it was: g follows |v|."""
    for name, module in small.named_modules():
        norm = module[0] if isinstance(module, ParametrizationList) else None
        if not isinstance(norm, _WeightNorm):
            continue
        dims = plan.kept.get(f"{name}.original1", {})
        axis: int = norm.dim  # pyright: ignore[reportAssignmentType]
        if axis >= 0 and any(dim != axis for dim in dims):
            old = torch.norm_except_dim(model.get_parameter(f"{name}.original1"), 2, axis)
            if axis in dims:
                old = old.index_select(axis, torch.tensor(dims[axis], device=old.device))
            new = torch.norm_except_dim(small.get_parameter(f"{name}.original1"), 2, axis)
            small.get_parameter(f"{name}.original0").data.mul_(new / old)
