"""Variance reduction comes to rest in the solution, where plain stochastic steps don't."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch

import secateur as sc
from baselines.group_lasso import GroupLasso
from baselines.svrg import SVRG, ProxSVRG
from optim.regression import GROUPS, Regression
from optim.training import same

LEVEL = 3
WAYS = {"lasso": GroupLasso(), "envelope": "envelope"}


def train(problem: Regression, optimizer: Any, epochs: int) -> None:
    for _ in range(epochs):
        if isinstance(optimizer, ProxSVRG):
            optimizer.snapshot(problem.closure(optimizer))
        for part in problem.batches():
            optimizer.step(problem.closure(optimizer, part))


@pytest.mark.parametrize(("penalty", "lam"), [("lasso", 0.8), ("envelope", 0.2)])
def test_it_reaches_the_solution_of_an_interior_point_method(penalty: str, lam: float) -> None:
    distances = []
    for reduced in (True, False):
        problem = Regression()
        solution = problem.solution(penalty, lam, LEVEL)
        parameters, budget = problem.model.parameters(), sc.Budget(groups=LEVEL)
        options: dict[str, Any] = {"penalty": WAYS[penalty], "lam": lam}
        if reduced:
            optimizer: Any = ProxSVRG(parameters, problem.groups, budget, lr=0.1, **options)
        else:
            sgd = torch.optim.SGD(parameters, lr=0.1)
            optimizer = sc.Proximal(sgd, problem.groups, budget, **options)
        train(problem, optimizer, 60)
        distances.append(problem.distance(solution))
        if reduced:
            norms = np.linalg.norm(solution.reshape(GROUPS, -1), axis=1)
            assert 0 < (norms < 1e-5).sum() < GROUPS
            np.testing.assert_array_equal(problem.groups.alive().numpy(), norms > 1e-5)
    assert distances[0] < 1e-4
    assert distances[1] > 1e-2


def test_firm_ends_on_the_best_point_of_the_groups_it_chose() -> None:
    """After the freeze it rests in the least squares solution on what is kept."""
    problem = Regression()
    optimizer = ProxSVRG(
        problem.model.parameters(),
        problem.groups,
        sc.Budget(groups=LEVEL),
        lr=0.1,
        schedule=sc.Homotopy(480, freeze=0.3),
    )
    train(problem, optimizer, 60)
    kept = problem.groups.alive().repeat_interleave(3)
    assert int(kept.sum()) == 3 * LEVEL
    exact = torch.linalg.lstsq(problem.inputs[:, kept], problem.targets[:, None]).solution
    torch.testing.assert_close(problem.model.weight[:, kept], exact.T, rtol=1e-4, atol=1e-4)


def test_at_the_snapshot_a_step_is_one_of_full_gradient_descent() -> None:
    problem = Regression()
    optimizer = SVRG(problem.model.parameters(), lr=0.1)
    optimizer.snapshot(problem.closure(optimizer))
    before = problem.model.weight.detach().clone()
    problem.closure(optimizer)()
    assert problem.model.weight.grad is not None
    expected = before - 0.1 * problem.model.weight.grad
    loss = optimizer.step(problem.closure(optimizer, slice(8)))
    torch.testing.assert_close(problem.model.weight.detach(), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        problem.model.weight.copy_(before)
    assert loss == problem.loss(slice(8))


def test_steps_are_the_formula_s() -> None:
    problem = Regression()
    optimizer = SVRG(problem.model.parameters(), lr=0.1)
    optimizer.snapshot(problem.closure(optimizer))
    at = problem.model.weight.detach().clone()
    for part in problem.batches()[:2]:
        optimizer.step(problem.closure(optimizer, part))
    here, part = problem.model.weight.detach().clone(), slice(8, 16)

    def gradient(value: torch.Tensor, part: slice) -> torch.Tensor:
        inputs, targets = problem.inputs[part], problem.targets[part]
        return (inputs.T @ (inputs @ value.squeeze(0) - targets) / len(inputs))[None]

    reduced = gradient(here, part) - gradient(at, part) + gradient(at, slice(None))
    optimizer.step(problem.closure(optimizer, part))
    torch.testing.assert_close(problem.model.weight.detach(), here - 0.1 * reduced)


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    """The snapshot travels in the state: resumed between two of them."""

    def begun() -> tuple[Regression, ProxSVRG]:
        problem = Regression()
        budget, options = sc.Budget(groups=LEVEL), {"lr": 0.03, "steps": 40}
        return problem, ProxSVRG(problem.model.parameters(), problem.groups, budget, **options)

    parts = [torch.arange(8 * i, 8 * i + 8) % 64 for i in range(40)]
    for at in (5, 33):
        problem, optimizer = begun()
        optimizer.snapshot(problem.closure(optimizer))
        for part in parts[:at]:
            optimizer.step(problem.closure(optimizer, part))
        buffer = io.BytesIO()
        torch.save((problem.model.state_dict(), optimizer.state_dict()), buffer)
        buffer.seek(0)
        saved = torch.load(buffer, weights_only=True)
        again, resumed = begun()
        again.model.load_state_dict(saved[0])
        resumed.load_state_dict(saved[1])
        for part in parts[at:]:
            optimizer.step(problem.closure(optimizer, part))
            resumed.step(again.closure(resumed, part))
        assert same(problem.model.state_dict(), again.model.state_dict())
        assert same(optimizer.state_dict(), resumed.state_dict())


def test_what_it_needs_is_said_and_nothing_changes() -> None:
    problem = Regression()
    optimizer = SVRG(problem.model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=r"call snapshot\(closure\) first"):
        optimizer.step(problem.closure(optimizer))
    with pytest.raises(TypeError, match=r"needs a closure that computes the loss of one batch"):
        optimizer.step()
    with pytest.raises(ValueError, match=r"lr=-1: expected a learning rate of 0 or more"):
        SVRG(problem.model.parameters(), lr=-1)
    proximal = ProxSVRG(
        problem.model.parameters(), problem.groups, sc.Budget(groups=3), lr=0.1, steps=9
    )
    proximal.snapshot(problem.closure(proximal))
    proximal.step(problem.closure(proximal, slice(8)))
    before = copy.deepcopy((problem.model.state_dict(), proximal.state_dict()))
    calls = 0

    def bad() -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = problem.closure(proximal)()
        if calls == 2:  # at the snapshot, while the parameters are elsewhere
            problem.model.weight.grad[0, 0] = float("nan")  # pyright: ignore
        return loss

    with pytest.raises(FloatingPointError, match=r"step 2, evaluation 2 of the closure: NaN"):
        proximal.step(bad)
    assert same(before, (problem.model.state_dict(), proximal.state_dict()))
