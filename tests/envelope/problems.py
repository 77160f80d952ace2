"""Problems for the tests of the envelope: strategies that meet its traps, and CVXPY oracles."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Arguments of one problem: norms (m,), a level, weights and costs (m,), all float64."""

    norms: Tensor
    level: float
    weights: Tensor
    costs: Tensor

    @property
    def scales(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "costs": self.costs}


def _spread(random: np.random.Generator, m: int, decades: float) -> np.ndarray:
    return 10 ** random.uniform(-decades / 2, decades / 2, m)


def make_case(seed: int, m: int, decades: float, equal: bool, flavour: str, where: str) -> Case:
    """Make one problem: `flavour` says what the norms look like, `where` what the level meets."""
    random = np.random.default_rng(seed)
    norms = random.exponential(size=m) * _spread(random, m, decades)
    weights = np.ones(m) if equal else _spread(random, m, decades)
    costs = np.ones(m) if equal else _spread(random, m, decades)
    if flavour == "ties":
        pick = random.integers(0, 2, m)
        norms, weights, costs = (x[pick % m] for x in (norms, weights, costs))
    if flavour == "zeros":
        norms[random.random(m) < 0.5] = 0
    if flavour == "all zero":
        norms[:] = 0
    order = np.argsort(-norms * np.sqrt(weights / costs))
    spent = np.cumsum(costs[order])
    level = {
        "inside": random.uniform(0.01, 0.99) * spent[-1],
        "tiny": 1e-6 * costs.min(),
        "small": 0.2 * costs.min(),
        "on a breakpoint": spent[random.integers(0, m)],
        "everything": costs.sum(),
        "beyond": 2 * costs.sum(),
    }[where]
    given = map(torch.as_tensor, (norms, weights, costs))
    norms_, weights_, costs_ = given
    return Case(norms_, float(level), weights_, costs_)


def cases(max_size: int = 200, decades: float = 6) -> st.SearchStrategy[Case]:
    return st.builds(
        make_case,
        seed=st.integers(0, 2**32 - 1),
        m=st.integers(1, max_size),
        decades=st.sampled_from([0.5, decades]),
        equal=st.booleans(),
        flavour=st.sampled_from(["plain", "ties", "zeros", "all zero"]),
        where=st.sampled_from(
            ["inside", "inside", "tiny", "on a breakpoint", "everything", "beyond"]
        ),
    )


def adversaries() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Slopes, offsets, costs and a level that lead Newton's steps astray."""
    m = 2000
    powers = np.logspace(-290, 290, m)
    one, zero = np.ones(m), np.zeros(m)
    stairs = 1e6 * np.arange(1.0, m + 1)  # all steep and short: nearly a staircase
    random = np.random.default_rng(0)
    denormal = np.full(m, 5e-324)
    return {
        "all magnitudes": (powers, zero, one, m / 2 + 0.5),
        "all magnitudes, dear first": (powers, zero, powers[::-1] ** 0.01, 3.0),
        "costs of all magnitudes": (one, random.random(m), np.logspace(-150, 150, m), 1e10),
        "stairs": (1e6 / np.arange(1.0, m + 1), stairs, one, m / 2 + 0.5),
        "two clusters": (np.where(one.cumsum() > m / 2, 1e-200, 1e200), zero, one, m / 2 + 1),
        "a single steep one": (np.r_[1e300, one[1:] * 1e-300], zero, one, 1.5),
        "denormal": (denormal, zero, one, 1.0),
        "ties": (one, 100 * one, one, 7.25),
        "cycle": (np.r_[one[: m // 2], 1e-3 * one[m // 2 :]], 50 * random.random(m), one, m / 2),
    }


def assert_fenchel_young(envelope: Tensor, conjugate: Tensor, product: Tensor, tol: float) -> None:
    """S(x) + S*(y) = <x, y>, which holds only if y is a subgradient of S at x."""
    gap = (envelope + conjugate - product).abs()
    assert gap <= tol * (envelope + conjugate), f"relative gap {gap / (envelope + conjugate)}"


@functools.cache
def oracle(kind: str, m: int) -> cp.Problem:
    """Build one parametrised problem; `z_j u_j >= weights_j x_j^2` makes sum z / 2 the envelope."""
    kept, bound = cp.Variable(m, name="u"), cp.Variable(m)
    costs, root_weights = cp.Parameter(m, name="costs"), cp.Parameter(m, name="root_weights")
    constraints: list[cp.Constraint] = [kept >= 0, kept <= 1, costs @ kept <= 1]
    if kind == "value":
        scaled, objective = root_weights, cp.sum(bound) / 2
    else:
        x = cp.Variable(m, name="x")
        square, line = cp.Parameter(m, name="square"), cp.Parameter(m, name="line")
        strength = cp.Parameter(nonneg=True, name="strength")
        scaled = cp.multiply(root_weights, x)
        objective = (
            cp.sum_squares(cp.multiply(square, x)) / 2 - line @ x + strength * cp.sum(bound) / 2
        )
    constraints.append(cp.SOC(bound + kept, cp.vstack([2 * scaled, bound - kept]), axis=0))
    problem = cp.Problem(cp.Minimize(objective), constraints)
    assert problem.is_dpp()
    return problem


def solve_oracle(problem: cp.Problem, **values: np.ndarray | float) -> dict[str, np.ndarray]:
    for name, given in values.items():
        problem.param_dict[name].value = given
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-9)
    problem.solve(solver=cp.CLARABEL, **tight)
    assert problem.status == cp.OPTIMAL
    return {name: np.asarray(variable.value) for name, variable in problem.var_dict.items()}
