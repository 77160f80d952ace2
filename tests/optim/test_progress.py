"""Where a run stands: what a second Proximal, a resumed run and `shrink` make of it."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from optim.training import (
    SCHEDULE,
    STEPS,
    groups_of,
    loss_of,
    network,
    proximal,
    same,
    snapshot,
    train,
)
from secateur.groups.trainers import trainer_of

# -- no gradient at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("every", [1, 5])
def test_the_step_that_would_choose_blindly_changes_nothing(every: int, closure: bool) -> None:
    model = network()
    optimizer = proximal(model, lambda p: torch.optim.AdamW(p, weight_decay=0.1), every=every)
    before = snapshot(model)
    given: Any = (lambda: loss_of(model, 0),) if closure else ()
    for _ in range(11):
        optimizer.step(*given)
    for _ in range(3):
        with pytest.raises(RuntimeError, match=r"step 12 would choose .*backward\(\) run before"):
            optimizer.step(*given)
        assert same(before, snapshot(model)) and not optimizer.frozen
        assert optimizer.steps_taken == 11
    train(model, optimizer, 1)
    assert optimizer.frozen and int(optimizer.groups.alive().sum()) == 9


@pytest.mark.parametrize("name", ["LBFGS", "SGD"])
def test_gradients_that_were_zeroed_before_the_step_are_none(name: str) -> None:
    model = network()
    optimizer = proximal(model, lambda p: getattr(torch.optim, name)(p, lr=0.1))

    def evaluate() -> Tensor:
        loss = loss_of(model, 0)
        loss.backward()
        optimizer.zero_grad(set_to_none=False)
        return loss

    for _ in range(11):
        optimizer.step(evaluate)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RuntimeError, match="no gradient"):
        optimizer.step(evaluate)  # pyright: ignore[reportArgumentType]
    assert bool(optimizer.groups.alive().all())


def test_skipped_steps_alone_choose_nothing() -> None:
    optimizer = proximal(network())
    for _ in range(11):
        optimizer.skip()
    with pytest.raises(RuntimeError, match="that a GradScaler skipped"):
        optimizer.skip()
    assert optimizer.steps_taken == 11 and optimizer.unchosen == "step 11 of 20"


def test_gradients_of_other_parameters_choose_nothing() -> None:
    model, head = network(), nn.Linear(2, 2)
    both = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1)
    optimizer = sc.Proximal(both, groups_of(model), sc.Budget(groups=9), schedule=SCHEDULE)
    with pytest.raises(RuntimeError, match="or only parameters in no group"):
        for _ in range(STEPS):
            optimizer.zero_grad()
            head(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert not optimizer.frozen and bool(optimizer.groups.alive().all())


def test_a_penalty_with_a_lambda_waits_for_a_gradient() -> None:
    model = network()
    optimizer = proximal(model, penalty="envelope", lam=10.0)
    before = snapshot(model)
    for _ in range(5):
        optimizer.step()
    assert same(before, snapshot(model))
    with pytest.raises(sc.ShrinkError, match="5 steps of its own, and no gradient"):
        sc.shrink(model, optimizer.groups)
    train(model, optimizer, 5)
    assert optimizer.unchosen == "" and not optimizer.groups.alive().all()


# -- a second one ----------------------------------------------------------------------------------


def sgd_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05)


def test_an_optimizer_is_in_one_proximal_until_that_has_chosen() -> None:
    model = network()
    sgd, groups, budget = sgd_of(model), groups_of(model), sc.Budget(groups=9)
    first = sc.Proximal(sgd, groups, budget, steps=STEPS)
    before = snapshot(model, first)
    with pytest.raises(ValueError, match=r"this SGD is in a Proximal already, .*step 0 of 20"):
        sc.Proximal(sgd, groups, budget, steps=STEPS)
    with pytest.raises(ValueError, match="this Chained is in a Proximal already"):
        sc.Proximal([sgd], groups, budget, steps=STEPS)
    with pytest.raises(TypeError, match=r"got Proximal; several budgets in one run are a list"):
        sc.Proximal(first, groups, budget, steps=STEPS)
    assert same(before, snapshot(model, first))
    sc.Proximal(sgd_of(model), groups, budget, steps=STEPS)  # another optimizer: another run
    train(model, first)
    second = sc.Proximal(sgd, groups, sc.Budget(groups=6), steps=STEPS)
    assert trainer_of(groups) is second
    train(model, second)
    assert second.kept == int(groups.alive().sum()) == 6


def test_what_is_gone_or_was_refused_holds_no_optimizer() -> None:
    model = network()
    sgd, groups, budget = sgd_of(model), groups_of(model), sc.Budget(groups=9)
    first = sc.Proximal(sgd, groups, budget, steps=STEPS)
    torch.optim.lr_scheduler.StepLR(first, 3)  # whose hold on it is a circle
    del first
    with pytest.raises(ValueError, match="there is nothing to cut") as kept_in_a_traceback:
        sc.Proximal(sgd, groups, sc.Budget(groups=10**6), steps=STEPS)
    sc.Proximal(sgd, groups, budget, steps=STEPS)
    assert kept_in_a_traceback.value.__traceback__ is not None


def test_a_budget_is_for_any_number_of_models() -> None:
    budget = sc.Budget(groups=9)
    both = [proximal(network(seed), budget=budget) for seed in (0, 1)]
    assert [trainer_of(each.groups) for each in both] == both


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_groups_are_copied_without_what_trains_them(copied: Callable[[Any], Any]) -> None:
    model = network()
    optimizer = proximal(model)
    assert trainer_of(optimizer.groups) is trainer_of(model=model) is optimizer
    assert trainer_of(copied(optimizer.groups)) is None
    buffer = io.BytesIO()
    torch.save(optimizer.groups, buffer)
    assert b"SGD" not in buffer.getvalue()
    other = copied(optimizer)
    assert trainer_of(other.groups) is other


# -- resumed with something else -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"budget": sc.Budget(groups=9, at_least=2)},
            r"other budgets\s+expected \['Budget\(groups=9\)'\]\s+found    \['.*at_least=2\)'\]",
        ),
        ({"budget": [sc.Budget(groups=12), sc.Budget(groups=9)]}, r"other budgets\s+expected \['B"),
        (
            {"schedule": replace(SCHEDULE, steps=30)},
            r"other schedule\s+expected Homotopy\(steps=20, .*\s+found    Homotopy\(steps=30",
        ),
    ],
)
@pytest.mark.parametrize("steps", [4, 16], ids=["before the freeze", "after it"])
def test_another_budget_or_schedule_is_refused(
    steps: int, options: dict[str, Any], message: str
) -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, steps)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(proximal(network(), **options).state_dict())
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("steps", [5, 16], ids=["before the freeze", "after it"])
def test_states_of_earlier_versions_are_read(steps: int) -> None:
    """They counted the budgets, and knew neither the schedule nor whether a gradient was seen."""
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, steps)
    old = optimizer.state_dict()
    for place in (old, old["param_groups"][0]):
        place["proximal"] = dict(place["proximal"], budgets=1)
        del place["proximal"]["schedule"], place["proximal"]["gradient_seen"]
    again = proximal(model)
    again.load_state_dict(old)
    assert same(again.state_dict(), optimizer.state_dict())
    two: Any = [sc.Budget(groups=12), sc.Budget(groups=9)]
    with pytest.raises(ValueError, match=r"other budgets\s+expected \['Bu.*\s+found    1"):
        proximal(network(), budget=two).load_state_dict(old)


def test_that_a_gradient_was_seen_is_carried_along() -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, 1)
    again = proximal(model)
    again.load_state_dict(optimizer.state_dict())
    for _ in range(11):
        again.skip()
    assert again.frozen


# -- zeros from the start --------------------------------------------------------------------------


def test_zeros_from_the_start_are_not_kept_and_counted() -> None:
    model = network()
    groups = groups_of(model)
    groups.scale_(torch.tensor([0.0] * 5 + [1] * 25))
    optimizer = sc.Proximal(sgd_of(model), groups, sc.Budget(groups=28), schedule=SCHEDULE)
    with pytest.warns(UserWarning, match=r"3 of 30 groups that the budget has room for are zero"):
        train(model, optimizer)
    alive = groups.alive()
    assert optimizer.kept == int(alive.sum()) == 25
    assert torch.equal(optimizer.multipliers > 0, alive)
    assert sc.shrink(model, groups)[0].out_channels == 1


def test_zeros_below_the_budget_are_nothing_to_tell() -> None:
    model = network()
    groups = groups_of(model)
    groups.scale_(torch.tensor([0.0] * 5 + [1] * 25))
    optimizer = sc.Proximal(sgd_of(model), groups, sc.Budget(groups=9), schedule=SCHEDULE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer)
    assert optimizer.kept == int(groups.alive().sum()) == 9


def test_a_layer_of_zeros_is_refused_by_name() -> None:
    model = network()
    for parameter in model[2].parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(ValueError, match=r"^2: every group is zero before training.*ignore="):
        proximal(model)


# -- the end, and what is loaded after it ----------------------------------------------------------


def test_dense_weights_after_the_choice_are_noticed() -> None:
    model = network()
    dense = copy.deepcopy(model.state_dict())
    optimizer = proximal(model)
    train(model, optimizer)
    assert optimizer.done
    model.load_state_dict(dense)
    with pytest.raises(sc.ShrinkError, match=r"21 groups that were not chosen .*scale_\(optimizer"):
        sc.shrink(model, optimizer.groups)
    assert sc.shrink(model, optimizer.groups, partial=True)[0].out_channels == 6
    optimizer.groups.on(model).scale_(optimizer.multipliers)
    sc.shrink(model, optimizer.groups)


def test_a_snapshot_of_an_earlier_stage_is_shrunk_later() -> None:
    model = network()
    budgets: Any = [sc.Budget(groups=15), sc.Budget(groups=9)]
    optimizer = proximal(model, budget=budgets, steps=STEPS)
    earlier = model
    for number in range(STEPS):
        train(model, optimizer, 1, number)
        if optimizer.settled and optimizer.stage == 0:
            earlier = copy.deepcopy(model)
    small = sc.shrink(earlier, optimizer.groups)
    assert budgets[0].reached(small, torch.ones(2, 1, 8, 8)).holds


def test_a_model_of_another_dtype_goes_on_or_says_why() -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer)
    model.double()
    moved = r"are torch.float32, and the parameters torch.float64 .*groups.on\(model, example\)"
    with pytest.raises(sc.ShrinkError, match=moved):
        sc.shrink(model, optimizer.groups)
    small = sc.shrink(model, optimizer.groups.on(model, torch.ones(2, 1, 8, 8).double()))
    assert next(small.parameters()).dtype == torch.float64


def lost(model: nn.Module) -> sc.Groups:
    """Trained in a function that ends before the choice, and takes the optimizer along."""
    optimizer = proximal(model)
    train(model, optimizer, 3)
    return optimizer.groups


def test_a_full_network_is_not_returned_in_silence_where_its_proximal_is_gone() -> None:
    model = network()
    groups = lost(model)
    gc.collect()
    for given in (groups, groups_of(model), groups.on(copy.deepcopy(model))):
        with pytest.warns(UserWarning, match="equal copy; the Proximal of this model is gone"):
            sc.shrink(model, given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sc.shrink(model, groups, partial=True)
        untrained = network()
        sc.shrink(untrained, groups_of(untrained))


def test_groups_made_anew_are_asked_for_the_run_on_their_model() -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, 3)
    with pytest.warns(UserWarning, match=r"has other groups, not chosen yet \(step 3 of 20\)"):
        sc.shrink(model, groups_of(model))
