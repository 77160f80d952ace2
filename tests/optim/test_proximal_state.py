"""Interrupted training goes on bit for bit; foreign states are refused with nothing changed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

import secateur as sc
from optim.training import (
    SCHEDULE,
    STEPS,
    groups_of,
    network,
    proximal,
    same,
    several,
    snapshot,
    train,
)

MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "several": several,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "firm": {"budget": sc.Budget(flops=0.3, groups=12)},
    "curvature": {"importance": "curvature", "every": 2},
    "envelope": {"penalty": "envelope", "lam": 0.3},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("steps", [5, 16], ids=["before the freeze", "after it"])
def test_a_resumed_run_is_the_uninterrupted_one(steps: int, name: str, options: str) -> None:
    model = network()
    optimizer = proximal(model, MAKERS[name], **OPTIONS[options])
    train(model, optimizer, steps)
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    train(model, optimizer, STEPS - steps, steps)

    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    resumed = network(seed=1)
    again = proximal(resumed, MAKERS[name], **OPTIONS[options])
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    assert again.steps_taken == steps
    train(resumed, again, STEPS - steps, steps)
    assert same(snapshot(model, optimizer), snapshot(resumed, again))
    assert again.frozen == (options != "envelope")
    assert (again.kept, again.hardness, again.spent) == (
        (optimizer.kept, optimizer.hardness, optimizer.spent)
    )


def test_a_frozen_state_thaws_where_the_loaded_one_is_not() -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, 3)
    early = snapshot(model, optimizer)
    train(model, optimizer, 15, 3)
    assert optimizer.frozen
    model.load_state_dict(early[0])
    optimizer.load_state_dict(early[1])
    assert not optimizer.frozen
    assert same(early, snapshot(model, optimizer))


def test_a_state_is_a_copy() -> None:
    model = network()
    optimizer = proximal(model, importance="curvature")
    train(model, optimizer, 3)
    state = optimizer.state_dict()["proximal"]
    multipliers, mean = state["multipliers"].clone(), state["learned"]["mean"].clone()
    train(model, optimizer, 3, 3)
    assert torch.equal(state["multipliers"], multipliers)
    assert torch.equal(state["learned"]["mean"], mean)
    assert not torch.equal(optimizer.state_dict()["proximal"]["learned"]["mean"], mean)


def other_states() -> dict[str, tuple[Callable[[], dict[str, Any]], str]]:
    def of(optimizer: Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def without_last_layer() -> sc.Proximal:
        model = network()
        groups = sc.filters(model, torch.ones(2, 1, 8, 8))
        sgd = MAKERS["momentum"](model.parameters())
        return sc.Proximal(sgd, groups, sc.Budget(groups=9), steps=STEPS)

    def in_two_groups() -> sc.Proximal:
        model = network()
        parts = [{"params": model[0].parameters()}, {"params": model[2:].parameters()}]
        return sc.Proximal(
            torch.optim.SGD(parts, lr=0.1, momentum=0.9),
            groups_of(model),
            sc.Budget(groups=9),
            schedule=SCHEDULE,
        )

    return {
        "of a plain optimizer": (
            lambda: of(MAKERS["momentum"](network().parameters())),
            "it has no 'proximal' entry",
        ),
        "of another optimizer": (
            lambda: of(proximal(network(), MAKERS["Adam"])),
            r"other optimizer\s+expected SGD\s+found    Adam",
        ),
        "of other groups": (lambda: of(without_last_layer()), r"other layers\s+expected \[\['0'"),
        "of another penalty": (
            lambda: of(proximal(network(), penalty="envelope", lam=0.1)),
            r"other penalty\s+expected firm\s+found    envelope",
        ),
        "of another importance": (
            lambda: of(proximal(network(), importance=1.0)),
            r"other importance\s+expected Curvature\s+found    Fixed",
        ),
        "of other parameter groups": (
            lambda: of(in_two_groups()),
            "different number of parameter groups",
        ),
        "cut short": (
            lambda: {k: v for k, v in of(proximal(network())).items() if k == "proximal"},
            "param_groups|state",
        ),
        "damaged": (
            lambda: {**of(proximal(network())), "proximal": {"optimizer": "SGD"}},
            "is damaged: it lacks layers",
        ),
    }


@pytest.mark.parametrize("kind", other_states())
@pytest.mark.parametrize("steps", [4, 16], ids=["before the freeze", "after it"])
def test_foreign_states_change_nothing(steps: int, kind: str) -> None:
    make, message = other_states()[kind]
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, steps)
    before = snapshot(model, optimizer)
    with pytest.raises((ValueError, KeyError), match=message):
        optimizer.load_state_dict(make())
    assert same(before, snapshot(model, optimizer))
    assert optimizer.frozen == (steps > 14)
    train(model, optimizer)
    assert int(optimizer.groups.alive().sum()) == 9
