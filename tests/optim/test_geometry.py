"""h is what the optimizer's own step shows; the proximal step solves its problem in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import Optimizer

import secateur as sc
from optim.training import adam_step, gathered, groups_of, loss_of, network, proximal, train
from secateur.optim.geometry import READERS, Euclidean, geometry_of

o = torch.optim
# Without momentum, a step is lr * gradient / preconditioner (NAdam looks ahead; see its own test).
WITHOUT_MOMENTUM: dict[str, Callable[[Any], Optimizer]] = {
    "Adam": lambda p: o.Adam(p, lr=0.01, betas=(0.0, 0.99), eps=1e-4),
    "Adam, amsgrad": lambda p: o.Adam(p, lr=0.01, betas=(0.0, 0.9), amsgrad=True),
    "AdamW": lambda p: o.AdamW(p, lr=0.01, betas=(0.0, 0.99), weight_decay=0.0),
    "RMSprop": lambda p: o.RMSprop(p, lr=0.01, eps=1e-3),
    "RMSprop, centered": lambda p: o.RMSprop(p, lr=0.01, centered=True, eps=1e-3),
    "Adagrad": lambda p: o.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
}


@pytest.mark.parametrize("name", WITHOUT_MOMENTUM)
def test_h_is_the_mean_of_what_the_step_divided_by(name: str) -> None:
    model = network().double()
    groups = groups_of(network()).on(model)
    optimizer = WITHOUT_MOMENTUM[name](model.parameters())
    for _ in range(4):
        before = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    divisor = {  # lr * gradient / how far it went
        p: 0.01 * p.grad / (old - p.detach())  # pyright: ignore[reportOptionalOperand]
        for p, old in zip(model.parameters(), before, strict=True)
    }
    total, sizes = np.zeros(30), np.zeros(30)
    for member in groups.members:
        values = divisor[member.parameter]
        ids = member.ids.expand(values.shape).reshape(-1).numpy()
        total += np.bincount(ids, values.reshape(-1).numpy(), 30)
        sizes += np.bincount(ids, minlength=30)
    found = geometry_of("optimizer", optimizer, groups)(optimizer, groups)
    np.testing.assert_allclose(found, total / sizes, rtol=1e-6)


def test_nadam_has_adam_s_preconditioner() -> None:
    found = []
    for kind in (o.Adam, o.NAdam):
        model = network()
        optimizer = kind(model.parameters(), lr=0.0)
        train(model, optimizer, 3)
        groups = groups_of(model)
        found.append(geometry_of("optimizer", optimizer, groups)(optimizer, groups))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_before_the_first_step_all_groups_are_alike() -> None:
    model = network()
    adam, groups = o.Adam(model.parameters()), groups_of(model)
    np.testing.assert_array_equal(geometry_of("optimizer", adam, groups)(adam, groups), np.ones(30))
    assert Euclidean()(adam, groups) == 1


def test_a_group_that_saw_no_gradient_keeps_an_h_above_0() -> None:
    model = network()
    adam, groups = o.Adam(model.parameters()), groups_of(model)
    loss_of(model, 0).backward()
    model[0].weight.grad = model[0].bias.grad = None  # pyright: ignore
    adam.step()
    found = np.asarray(geometry_of("optimizer", adam, groups)(adam, groups))
    assert (found > 0).all()
    assert found[:6].max() < 1e-6 * found[6:].max()


# -- the proximal step in this geometry ------------------------------------------------------------


def test_a_convex_penalty_is_minimal_in_the_geometry() -> None:
    """h_j (x_j - v_j) + lr lam * (a subgradient of the penalty at x) = 0, for every group."""
    d = torch.rand(30, dtype=torch.float64) + 0.5
    before, optimizer = adam_step("envelope", lam=0.5, importance=d)
    h = np.asarray(optimizer.geometry(optimizer.optimizer, optimizer.groups))
    assert h.max() / h.min() > 2  # a Euclidean step would be another one
    after, step = gathered(optimizer.groups), 0.1 * 0.5
    assert 0 < sum(bool(x.any()) for x in after) < 30
    u = optimizer.multipliers
    threshold = max(
        (float(x.norm() / u[j]) * float(d[j]) ** 0.5 for j, x in enumerate(after) if x.any()),
        default=0.0,
    )
    for j, (v, x) in enumerate(zip(before, after, strict=True)):
        pull = h[j] * (v - x) / step
        if x.any():
            expected = d[j] * x / u[j]
        else:  # any y with ||y|| / sqrt(d) up to that of the groups that are kept in part
            expected = pull * min(1, threshold * float(d[j]) ** 0.5 / float(pull.norm()))
        torch.testing.assert_close(pull, expected, rtol=2e-4, atol=2e-6)


def test_firm_counts_what_the_optimizer_s_geometry_counts() -> None:
    """Frozen after a step, the groups of the largest d_j h_j a_j^2 are there, each layer's best."""
    before, optimizer = adam_step("firm", steps=1, importance=1.0)
    h = np.asarray(optimizer.geometry(optimizer.optimizer, optimizer.groups))
    plain = np.array([float(v.norm()) for v in before])
    worth = h * plain**2
    floor = [int(worth[la.span].argmax()) + la.start for la in optimizer.groups.layers]
    rest = [int(j) for j in np.argsort(-worth) if j not in floor][:6]
    assert set(np.flatnonzero(optimizer.groups.alive().numpy())) == {*floor, *rest}
    by_norm = [int(j) for j in np.argsort(-plain) if j not in floor][:6]
    assert set(rest) != set(by_norm)


def test_before_any_pressure_it_is_still_the_plain_optimizer() -> None:
    model, plain = network(), network()
    budget = sc.Budget(groups=1.0)
    make: Callable[[Any], Optimizer] = lambda p: o.AdamW(p, lr=0.01)  # noqa: E731
    train(model, proximal(model, make, budget, geometry="optimizer"))
    train(plain, make(plain.parameters()))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", READERS)
def test_training_in_the_geometry_ends_on_the_count(kind: Any) -> None:
    model = network()
    optimizer = proximal(model, lambda p: kind(p, lr=0.005), geometry="optimizer")
    train(model, optimizer)
    assert int(optimizer.groups.alive().sum()) == optimizer.kept == 9


def test_other_optimizers_and_names_are_refused() -> None:
    model = network()
    with pytest.raises(
        ValueError,
        match=r"SGD has no preconditioner .* only Adam, AdamW, NAdam, RMSprop, Adagrad have; use",
    ):
        proximal(model, geometry="optimizer")
    with pytest.raises(ValueError, match=r"geometry='adam': expected 'euclidean' or 'optimizer'"):
        proximal(model, geometry="adam")
