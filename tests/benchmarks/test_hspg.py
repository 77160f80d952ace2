"""The half-space step by hand, and group lasso against an interior-point method."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from baselines.hspg import HSPG
from optim.regression import GROUPS, SIZE, Regression
from optim.training import groups_of, loss_of, network, same


@pytest.mark.parametrize("switch", [100, 10**6])
def test_with_full_gradients_both_stages_reach_the_solution(switch: int) -> None:
    """From 100 steps on by half-spaces, or by the proximal step all along."""
    problem = Regression()
    solution = problem.solution("lasso", 0.8)
    optimizer = HSPG(problem.model.parameters(), problem.groups, lr=0.1, lam=0.8, switch=switch)
    for _ in range(500):
        optimizer.step(problem.closure(optimizer))
    norms = np.linalg.norm(solution.reshape(GROUPS, SIZE), axis=1)
    assert 0 < (norms < 1e-5).sum() < GROUPS
    np.testing.assert_array_equal(problem.groups.alive().numpy(), norms > 1e-5)
    assert problem.distance(solution) < 1e-4


@pytest.mark.parametrize("epsilon", [0.0, 0.6])
def test_the_half_space_step_is_the_formula_s(epsilon: float) -> None:
    problem, rate, lam = Regression(), 0.9, 0.3
    weights = torch.arange(1, GROUPS + 1, dtype=torch.float64) / 4
    with torch.no_grad():
        problem.model.weight.copy_(torch.linspace(-1, 1, GROUPS * SIZE)[None])
        problem.model.weight[:, :SIZE] = 0
    optimizer = HSPG(
        problem.model.parameters(),
        problem.groups,
        lr=rate,
        lam=lam,
        switch=0,
        epsilon=epsilon,
        importance=weights,
    )
    x = problem.model.weight.detach().clone().reshape(GROUPS, SIZE)
    problem.closure(optimizer)()
    assert problem.model.weight.grad is not None
    g = problem.model.weight.grad.reshape(GROUPS, SIZE).clone()
    expected = torch.zeros_like(x)
    for j in range(1, GROUPS):
        trial = x[j] - rate * (g[j] + lam * weights[j].sqrt() * x[j] / x[j].norm())
        if trial @ x[j] >= epsilon * x[j] @ x[j]:
            expected[j] = trial
    assert 0 < int((expected.norm(dim=1) == 0).sum()) - 1 < GROUPS - 1
    optimizer.step()
    found = problem.model.weight.detach().reshape(GROUPS, SIZE)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_with_noise_it_leaves_fewer_groups_than_the_proximal_step() -> None:
    """Groups that are zero in the solution flicker under the proximal step; here they stay dead."""
    alive = {}
    for switch in (400, 10**6):
        problem = Regression()
        optimizer = HSPG(
            problem.model.parameters(), problem.groups, lr=0.05, lam=0.3, switch=switch
        )
        counts = []
        for epoch in range(100):
            for part in problem.batches():
                optimizer.step(problem.closure(optimizer, part))
            if epoch >= 80:
                counts.append(int(problem.groups.alive().sum()))
        alive[switch] = sum(counts) / len(counts)
        if switch == 400:
            assert len(set(counts)) == 1
    norms = np.linalg.norm(Regression().solution("lasso", 0.3).reshape(GROUPS, SIZE), axis=1)
    assert abs(alive[400] - (norms > 1e-5).sum()) <= 1
    assert alive[400] < alive[10**6]


def test_a_network_loses_groups_and_resumes_where_it_was() -> None:
    def begun() -> tuple[Any, HSPG]:
        model = network()
        return model, HSPG(model.parameters(), groups_of(model), lr=0.05, lam=0.6, switch=5)

    def train(model: Any, optimizer: HSPG, first: int, last: int) -> None:
        for number in range(first, last):
            optimizer.zero_grad()
            loss_of(model, number).backward()
            optimizer.step()

    model, optimizer = begun()
    train(model, optimizer, 0, 8)
    again, resumed = begun()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 8, 20)
    train(again, resumed, 8, 20)
    assert same(model.state_dict(), again.state_dict())
    assert resumed.param_groups[0]["steps_taken"] == 20
    alive = int(optimizer.groups.alive().sum())
    assert 0 < alive < 30
    train(model, optimizer, 20, 24)
    assert int(optimizer.groups.alive().sum()) <= alive  # the dead stay dead


def test_values_out_of_bounds_are_refused() -> None:
    problem = Regression()
    good: dict[str, Any] = {"lr": 0.1, "lam": 0.1, "switch": 5}
    for wrong, message in (
        ({"lr": -1}, r"HSPG\(lr=-1, lam=0.1\): numbers of 0 or more"),
        ({"lam": float("nan")}, r"numbers of 0 or more"),
        ({"epsilon": 1.0}, r"HSPG\(epsilon=1.0\): a number in \[0, 1\)"),
        ({"switch": -1}, r"HSPG\(switch=-1\): a number of steps, 0 or more"),
        ({"importance": 0.0}, r"above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            HSPG(problem.model.parameters(), problem.groups, **{**good, **wrong})
    with pytest.raises(ValueError, match=r"grouped but not in the optimizer: weight"):
        HSPG(network().parameters(), problem.groups, **good)
    parts = [{"params": [problem.model.weight]}, {"params": [torch.zeros(1)], "lr": 1.0}]
    optimizer = HSPG(parts, problem.groups, **good)
    with pytest.raises(ValueError, match=r"one lr for all parameters, got \[0.1, 1.0\]"):
        optimizer.step(problem.closure(optimizer))
