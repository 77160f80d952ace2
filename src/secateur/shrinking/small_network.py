"""`shrink`: from a network with zeros to a smaller network that computes the same.

In: a trained model and its groups. Out: a small copy, checked against the zeroed model.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TypeVar, cast

import numpy as np
import torch
from torch import nn

from secateur.costs.measures import all_full_costs
from secateur.deploy.saving import save
from secateur.deploy.small_pretrained import configuration, keep_pretrained
from secateur.groups import Groups, Layer
from secateur.groups.trainers import trainer_of, was_trained
from secateur.measurement import format_measure
from secateur.optim import Proximal
from secateur.surgery.equivalence import agree, difference, tolerance
from secateur.surgery.leftover_zeros import severed
from secateur.surgery.plan import plan_of
from secateur.surgery.removal import Removal, remove
from secateur.surgery.rounding import gap_after, rounding_explains
from secateur.utils.contexts import preserve_state
from secateur.utils.distributed import is_dtensor
from secateur.utils.forward import inputs_of, unwrapped

Network = TypeVar("Network", bound=nn.Module)


class ShrinkError(RuntimeError):
    """The small network would not have computed what the zeroed one does; nothing was changed."""


def shrink(model: Network, groups: Groups, *, exact: bool = True, partial: bool = False) -> Network:
    """Cut the dead groups out of a copy of a model.

    A group is dead where all of its parameters are exactly zero. Before it is returned, the small
    network is compared with `model` in eval mode, on the groups' example inputs and on random ones:
    another batch, other sizes, masks and integers, larger values, as far as `model` runs on them;
    and in train mode, without dropout:

        max |small - model| <= 1e-5 * max |model|    (float32; 1e-9 float64, 2e-2 and 1e-1 halves)

    With `exact=False`, groups may leave although a LayerNorm takes its mean over them (`width`).
    The same comparison is then made with these LayerNorms at full size, where missing channels are
    zeros, so that nothing but their mean can differ. By how much the outputs differ is measured:

        max |small - model| / max |model|

    It holds for the inputs that were compared, and is no bound for others: judge the small network
    by its score on test data, and train it on.

    Args:
        model: the trained model, or another copy of it (an average of its weights); left as it was.
            Shells of torch.compile or for several devices are left out of the small network.
        groups: its groups. What a kind that does not trace (`weights`, `blocks`) has zeroed stays
            in place, as zeros.
        exact: whether the small network has to compute what `model` does.
        partial: whether to cut out what is dead by now, though the `Proximal` that trains these
            groups has not chosen those of its budget yet, or this model has others than chosen.

    Returns:
        A smaller module of the same class, in the same mode and on the same device, without
        gradients. Its attribute `secateur` holds the plan that `save` writes down, with what the
        full network cost. With no dead group it is an equal copy. Its parameters are new: training
        goes on with a new optimizer, or with the old one after `refit`. The measured difference is
        `small.secateur.difference`, 0 where the removal was exact.

    Raises:
        ShrinkError: the outputs differ by more than rounding explains, the small network does not
            run, groups are dead that can't be removed exactly and `exact` is True; or, unless
            `partial`, the groups of a budget have not been chosen yet, or are alive though they
            were not chosen.
        ValueError: the groups belong to another model, all the groups of a layer are dead, or the
            model is split over processes.

    Warns:
        UserWarning: groups that are dead but couldn't be removed exactly, or leave zeros that
            nothing can be cut out of, by layer and reason; the measured difference; and that none
            is dead, where a `Proximal` of this model is gone or trains other groups.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> groups = sc.neurons(model, torch.ones(1, 4))
        >>> _ = groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1]))
        >>> shrink(model, groups)
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    model, given = cast(Network, unwrapped(model)), groups
    _refuse_what_is_split(model)
    if not partial:
        _refuse_what_is_not_chosen(given)
    groups = given.on(model)
    dead = ~groups.alive().cpu().numpy()
    if not dead.any():
        _warn_of_other_parameters(given, groups)
    if not partial:
        _refuse_what_came_back(given, dead)
        if not dead.any():
            _warn_of_a_lost_run(given, model)
    _refuse_what_cannot_be_cut(groups, dead)
    if exact:
        _refuse_what_is_inexact(groups, dead)
    removal = _checked_removal(model, groups, dead)
    for layer, count, reason in removal.refused:
        warnings.warn(f"{count} dead groups of {layer} stay in the network: {reason}", stacklevel=2)
    small, plan = removal.model, removal.plan
    if _inexact(groups, removal.dead):
        found = difference(model, small, groups.example)
        warnings.warn(
            f"the small network's outputs differ by {found:.1e} of their scale on the groups' "
            "example inputs and on random ones, because LayerNorm's mean is over fewer channels",
            stacklevel=2,
        )
        plan = replace(plan, difference=found)
    earlier = plan_of(model)
    if earlier is None or dead.any():
        with preserve_state(model):
            plan = replace(plan, full=all_full_costs(groups))
    small.secateur = plan.after(earlier)  # pyright: ignore
    keep_pretrained(small, configuration(model), save)
    return cast(Network, small)


def _warn_of_other_parameters(given: Groups, here: Groups) -> None:
    """The groups' own parameters were trained, and the model has others."""
    pairs = zip(given.members, here.members, strict=True)
    others = [mine.name for mine, its in pairs if mine.parameter is not its.parameter]
    if others and not given.on_meta and not given.alive().all():
        warnings.warn(
            f"no group is dead in this model, but {int((~given.alive()).sum())} are in the "
            f"parameters that the groups were made of. {others[0]} is another object in this model "
            "(was it replaced, by load_state_dict(assign=True) or to_empty, before the optimizer "
            "stepped?). Make groups = groups.on(model) and the optimizer after that",
            stacklevel=3,
        )


def _refuse_what_is_not_chosen(groups: Groups) -> None:
    training = trainer_of(groups)
    if not isinstance(training, Proximal) or not training.unchosen:
        return
    if training.penalty.has_lambda and not groups.alive().all():
        return  # whatever made them zero: with a lambda nothing is chosen
    costs = training.allowance.spent(groups.alive().double().cpu().numpy())
    now = ", ".join(
        f"{measure} {format_measure(measure, cost)}, asked "
        f"{format_measure(measure, training.allowance.limits[measure])}"
        for measure, cost in costs.items()
    )
    raise ShrinkError(
        f"the groups have not been chosen yet: {training.unchosen}, now {now}. Train to the end "
        "(steps= counts optimizer steps: batches times epochs, over the batches accumulated, and "
        "only optimizer.step() of the Proximal counts), or choose now: optimizer.freeze_(); "
        "shrink(..., partial=True) cuts out what is dead by now"
    )


def _warn_of_a_lost_run(given: Groups, model: nn.Module) -> None:
    """Nothing is dead, and what trained the model can't be asked why, or has other groups."""
    if trainer_of(given) is not None:
        return
    other = trainer_of(model=model)
    if other is not None and other.unchosen:
        why = f"the Proximal of this model has other groups, not chosen yet ({other.unchosen})"
    elif other is None and (was_trained(model) or was_trained(given.model)):
        why = "the Proximal of this model is gone"
    else:
        return
    warnings.warn(
        f"no group is dead, and the small network is an equal copy; {why}. Did its steps reach "
        "the announced number (optimizer.done)? partial=True is for those who mean it",
        stacklevel=3,
    )


def _refuse_what_came_back(given: Groups, dead: np.ndarray) -> None:
    """Groups that were given up are not zero, so that the network is on none of its budgets."""
    training = trainer_of(given)
    if not isinstance(training, Proximal) or not training.frozen:
        return
    back = int((~dead & (training.multipliers.numpy() == 0)).sum())
    if back and not training.fits(~dead):
        raise ShrinkError(
            f"{back} groups that were not chosen are not zero in this model, and it is on none of "
            "its budgets. Were other weights loaded after the choice, or is this an average that "
            "began before it? groups.on(model).scale_(optimizer.multipliers) makes them zero "
            "again; shrink(..., partial=True) cuts out what is zero here"
        )


def _refuse_what_is_split(model: nn.Module) -> None:
    split = [name for name, parameter in model.named_parameters() if is_dtensor(parameter)]
    if split:
        raise ValueError(
            f"{type(model).__name__} is split over processes ({split[0]} is a DTensor), and can't "
            "be cut. Gather a full state dict on rank 0, load it into an ordinary copy of the "
            "model, and shrink that there, with the same groups (docs/distributed.md)"
        )


def _refuse_what_cannot_be_cut(groups: Groups, dead: np.ndarray) -> None:
    if names := severed(groups, dead):
        raise ValueError(
            f"every group of {names} is dead: the network is cut in two there. Train with "
            "Budget(at_least=1), which keeps every layer alive"
        )


def _inexact(groups: Groups, dead: np.ndarray) -> list[Layer]:
    """The layers that lose groups which can't be removed exactly."""
    return [x for x in groups.layers if x.inexact and dead[x.span].any()]


def _refuse_what_is_inexact(groups: Groups, dead: np.ndarray) -> None:
    for layer in _inexact(groups, dead):
        count = int(dead[layer.span].sum())
        raise ShrinkError(
            f"{count} dead groups of {layer.name} can't be removed exactly: {layer.inexact}\n"
            "  shrink(model, groups, exact=False) removes them and measures the difference; with "
            "nn.RMSNorm in place of nn.LayerNorm the removal would be exact. The model is unchanged"
        )


@torch.inference_mode(False)  # whose tensors could not be trained
def _checked_removal(model: nn.Module, groups: Groups, dead: np.ndarray) -> Removal:
    advice = (
        "the model is unchanged. Make the groups anew if the model's code has changed since; "
        "else name its unusual modules in ignore= and report the model"
    )
    try:
        removal = remove(model, groups, dead)
        if groups.example is None:
            return removal  # made without running the model: an equal copy
        found = gap_after(model, removal, groups, thorough=True)
    except Exception as error:
        raise ShrinkError(
            f"{type(model).__name__} does not run on the groups' example inputs, whole or without "
            f"its dead groups: {error}\n  {_other_dtype(model, groups) or advice}"
        ) from error
    if not agree(model, found, groups.example) and not rounding_explains(
        model, groups, removal.dead, found, thorough=True
    ):
        allowed = tolerance(model, groups.example)
        raise ShrinkError(
            f"the small network's output differs by {found:.1e} of its scale "
            f"(allowed {allowed:.0e})\n  {advice}"
        )
    return removal


def _other_dtype(model: nn.Module, groups: Groups) -> str:
    """What to do where the model has moved to a dtype that the example inputs don't have."""
    given, own = (
        {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        for tensors in (inputs_of(groups.example), model.parameters())
    )
    if not given or not own or given & own:
        return ""
    example, here = (" and ".join(sorted(map(str, dtypes))) for dtypes in (given, own))
    return (
        f"the example inputs are {example}, and the parameters {here} (was the model moved?): "
        "give an example of their dtype, shrink(model, groups.on(model, example)), or move the "
        "model back; the model is unchanged"
    )
