"""Proximal is an Optimizer: schedulers, hooks, scaling, copies and parameters in no group."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler, swa_utils

import secateur as sc
from optim.training import STEPS, groups_of, loss_of, network, proximal, same, snapshot, train

SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 6]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=STEPS),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS + 1),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, total_iters=4), lr_scheduler.CosineAnnealingLR(o, STEPS)],
        milestones=[4],
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=4),
}


def test_no_scheduler_of_torch_is_forgotten() -> None:
    known = {*SCHEDULERS, "LRScheduler"}
    found = {
        name
        for module in (lr_scheduler, swa_utils)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler)
    }
    assert {name for name in found if not name.startswith("_")} <= known
    assert set(lr_scheduler.__all__) <= known


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_move_the_learning_rate(name: str) -> None:
    """The same rates as on the plain optimizer, without a warning, and the budget is met."""
    histories = []
    for wrapped in (False, True):
        model = network()
        sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        optimizer: Optimizer = sgd
        if wrapped:
            optimizer = sc.Proximal(sgd, groups_of(model), sc.Budget(groups=9), steps=STEPS)
        rates = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler = SCHEDULERS[name](optimizer)
            for number in range(STEPS):
                train(model, optimizer, 1, number)
                scheduler.step(*[1.0] if name == "ReduceLROnPlateau" else [])
                rates.append(sgd.param_groups[0]["lr"])
        histories.append(rates)
        if isinstance(optimizer, sc.Proximal):
            assert int(optimizer.groups.alive().sum()) == 9
    assert histories[0] == histories[1]
    assert len(set(histories[0])) > 1


def test_it_shares_what_the_wrapped_optimizer_holds() -> None:
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = sc.Proximal(sgd, groups_of(model), sc.Budget(groups=9), steps=STEPS)
    assert optimizer.param_groups is sgd.param_groups
    assert optimizer.state is sgd.state
    assert optimizer.defaults is sgd.defaults
    optimizer.param_groups[0]["lr"] = 0.5
    assert sgd.param_groups[0]["lr"] == 0.5
    loss_of(model, 0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert "Budget(groups=9), 30 groups, penalty='firm'" in repr(optimizer)
    assert "SGD" in repr(optimizer)


def test_parameter_groups_keep_their_rates() -> None:
    model, plain = network(), network()

    def sgd(m: nn.Sequential) -> Optimizer:
        rates = [{"params": m[0].parameters(), "lr": 0.0}, {"params": m[2:].parameters()}]
        return torch.optim.SGD(rates, lr=0.1)

    optimizer = sc.Proximal(sgd(model), groups_of(model), sc.Budget(groups=29), steps=1000)
    train(model, optimizer, 2)
    train(plain, sgd(plain), 2)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), atol=1e-5, rtol=1e-4)
    train(model, optimizer)
    assert int(groups_of(model).alive().sum()) >= 29


def test_parameters_in_no_group_stay_free() -> None:
    """Parameters that join later train on, also after the freeze."""
    model = network()
    scale = nn.Parameter(torch.ones(()))
    optimizer = proximal(model)
    optimizer.add_param_group({"params": [scale], "lr": 0.01})
    values = []
    for number in range(STEPS):
        optimizer.zero_grad()
        (loss_of(model, number) * scale).backward()
        optimizer.step()
        values.append(float(scale.detach()))
    assert len(set(values)) == STEPS
    assert int(optimizer.groups.alive().sum()) == 9


def test_step_hooks_fire_once_a_step() -> None:
    model = network()
    optimizer = proximal(model)
    seen = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(("pre", o.steps_taken)))  # pyright: ignore
    optimizer.register_step_post_hook(lambda o, *_: seen.append(("post", o.steps_taken)))  # pyright: ignore
    train(model, optimizer, 2)
    assert seen == [("pre", 0), ("post", 1), ("pre", 1), ("post", 2)]


def test_state_hooks_fire() -> None:
    model = network()
    optimizer = proximal(model)
    seen = []
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("before"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": "mine"})
    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: {k: v for k, v in state.items() if k != "note"}
    )
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    state = optimizer.state_dict()
    assert state["note"] == "mine"
    optimizer.load_state_dict(state)
    assert seen == ["before", "loaded"]


def test_the_closure_s_loss_is_returned() -> None:
    model = network()
    optimizer = proximal(model)
    assert optimizer.step() is None
    with torch.no_grad():
        expected = float(loss_of(model, 0))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, 0)  # gradients are on again in here
            loss.backward()
            return loss

        loss = optimizer.step(closure)
    assert loss.item() == expected


def test_gradients_may_be_accumulated() -> None:
    """Two halves of a batch are the batch, up to rounding."""
    found = []
    for parts in (1, 2):
        model = network()
        optimizer = proximal(model)
        for number in range(STEPS):
            optimizer.zero_grad()
            for part in range(parts):
                (loss_of(model, parts * number + part, 128 // parts) / parts).backward()
            optimizer.step()
        found.append(model.state_dict())
        assert int(optimizer.groups.alive().sum()) == 9
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scaled", [False, True])
def test_mixed_precision(scaled: bool) -> None:
    model = network()
    optimizer = proximal(model, budget=sc.Budget(flops=0.3))
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    for number in range(STEPS + 2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, number)
        scaler.scale(loss).backward()
        if scaled and number in (2, 5):  # an overflow: the scaler skips the step
            model[0].weight.grad.fill_(float("inf"))  # pyright: ignore
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.steps_taken == STEPS + 2 - 2 * scaled
    assert optimizer.frozen
    budget = optimizer.budget
    assert budget.reached(sc.shrink(model, optimizer.groups), torch.randn(2, 1, 8, 8)).holds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    groups = groups_of(network()).on(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=9), steps=STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(8, 1, 8, 8, dtype=dtype)).square().mean().backward()
        optimizer.step()
    assert int(groups.alive().sum()) == 9
    assert all(p.dtype == dtype for p in model.parameters())


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 16], ids=["before the freeze", "after it"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_train_on_like_the_original(how: str, steps: int) -> None:
    model = network()
    optimizer = proximal(model)
    lr_scheduler.StepLR(optimizer, 100)  # replaces optimizer.step by a function of its own
    optimizer.register_step_post_hook(lambda *_: None)
    train(model, optimizer, steps)
    both = (model, optimizer)
    if how == "deepcopy":
        twin, its = copy.deepcopy(both)
    elif how == "pickle":
        twin, its = pickle.loads(pickle.dumps(both))
    else:
        buffer = io.BytesIO()
        torch.save(both, buffer)
        buffer.seek(0)
        twin, its = torch.load(buffer, weights_only=False)
    before = snapshot(model, optimizer)
    train(twin, its, 6, steps)
    assert same(before, snapshot(model, optimizer))  # the copy is a copy
    train(model, optimizer, 6, steps)
    assert same(snapshot(twin, its), snapshot(model, optimizer))
    assert its.steps_taken == steps + 6
