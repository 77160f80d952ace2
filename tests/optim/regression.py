"""Regressions with groups, and their solutions by an independent solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import secateur as sc

SAMPLES, GROUPS, SIZE, BATCH = 64, 8, 3, 8


class Regression:
    """Least squares with 8 groups of 3 features, of which 3 groups matter; the noise is large.

    With `noise` 0, all batches agree at the solution of the unpenalised problem.
    """

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        truth = torch.zeros(GROUPS * SIZE, dtype=torch.float64)
        truth[: 3 * SIZE] = random(3 * SIZE)
        self.inputs = random(SAMPLES, GROUPS * SIZE)
        self.targets = self.inputs @ truth + 2 * random(SAMPLES)
        self.model = nn.Linear(GROUPS * SIZE, 1, bias=False).double()
        nn.init.constant_(self.model.weight, 0.1)
        ids = torch.arange(GROUPS).repeat_interleave(SIZE).reshape(1, -1)
        self.groups = sc.custom(self.model, {"weight": ids})
        self.generator = generator

    def loss(self, part: Any = slice(None)) -> Tensor:
        error = self.model(self.inputs[part]).squeeze(1) - self.targets[part]
        return error.square().mean() / 2

    def closure(self, optimizer: Optimizer, part: Any = slice(None)) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(part)
            loss.backward()
            return loss

        return evaluate

    def batches(self) -> tuple[Tensor, ...]:
        """The indices of one epoch's batches."""
        return torch.randperm(SAMPLES, generator=self.generator).split(BATCH)

    def solution(self, penalty: str, lam: float, level: float = 0) -> np.ndarray:
        """The minimiser of loss + lam * penalty, (24,), by an interior-point method."""
        x = cvxpy.Variable(GROUPS * SIZE)
        parts = [x[SIZE * j : SIZE * (j + 1)] for j in range(GROUPS)]
        limits = []
        if penalty == "lasso":
            size: Any = sum(cvxpy.norm(part) for part in parts)
        else:
            u = cvxpy.Variable(GROUPS)
            size = sum(cvxpy.quad_over_lin(part, u[j]) for j, part in enumerate(parts)) / 2
            limits = [u >= 0, u <= 1, cvxpy.sum(u) <= level]
        error = cvxpy.sum_squares(self.inputs.numpy() @ x - self.targets.numpy()) / (2 * SAMPLES)
        problem = cvxpy.Problem(cvxpy.Minimize(error + lam * size), limits)
        problem.solve(solver=cvxpy.CLARABEL)  # to about 1e-5
        assert x.value is not None
        return x.value

    def distance(self, solution: np.ndarray) -> float:
        """How far the model is from a solution, relative to it."""
        found = self.model.weight.detach().numpy().ravel()
        return float(np.linalg.norm(found - solution) / np.linalg.norm(solution))
