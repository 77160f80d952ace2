"""The compiled loops: the plain code's results, in few passes whatever the breakpoints."""

from __future__ import annotations

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur.kernels.cpu as cpu
from envelope.problems import Case, adversaries, cases
from secateur.envelope import firm, multipliers, prox
from secateur.envelope.root import multipliers_at_root, root

needs_compiled = pytest.mark.skipif(
    cpu.implementation() == "plain", reason="no C compiler when secateur was installed"
)
FREE, HALVINGS = 10, 64  # newton() of _fused.c


def _plainly(call):
    """The result of a call without the compiled library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_library", None)
        return call()


@needs_compiled
@settings(max_examples=150, deadline=None)
@given(
    case=cases(),
    strength=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    numbers=st.booleans(),
)
def test_operators_equal_the_plain_ones(case: Case, strength: float, dtype, numbers: bool) -> None:
    norms = case.norms.to(dtype)
    scales = {"weights": 0.3, "costs": 2.0} if numbers else case.scales
    hardness = strength / (1 + strength)
    calls = [
        lambda: prox(norms, case.level, step=strength, **scales),
        lambda: multipliers(norms, case.level, step=strength, **scales),
        lambda: firm(norms, case.level, hardness=hardness, **scales),
    ]
    rounding = 1e-10 if dtype == torch.float64 else 1e-6
    largest = 1.0 if numbers else case.weights.max().item()
    for call in calls:
        atol = rounding * (1 + strength * largest)
        torch.testing.assert_close(call(), _plainly(call), rtol=rounding, atol=atol)


@needs_compiled
@pytest.mark.parametrize("name", adversaries())
@pytest.mark.parametrize("start", [math.nan, 5e-324, 1e-300, 1.0, 1e300])
def test_passes_stay_bounded_on_adversarial_breakpoints(name: str, start: float) -> None:
    *lines, level = adversaries()[name]
    slope, offset, costs = map(torch.from_numpy, lines)
    budget = torch.tensor(level, dtype=torch.float64)
    t, passes = cpu.root(slope, offset, costs, budget, torch.full_like(budget, start))
    assert 0 < passes.item() <= FREE + 2 * HALVINGS
    kept = multipliers_at_root(t, slope, offset)
    rounding = 1e-14 * (costs * (1 + offset)).sum().item()
    if name == "denormal":  # the steepest line there is reaches 9e-16
        assert t.isfinite() and kept.max() < 1e-15
    else:
        assert (kept * costs).sum().item() == pytest.approx(level, rel=1e-12, abs=rounding)


@needs_compiled
@settings(max_examples=200, deadline=None)
@given(case=cases(max_size=300, decades=200), strength=st.sampled_from([0.0, 1.0, 1e4]))
def test_passes_stay_bounded_whatever_the_case(case: Case, strength: float) -> None:
    slope = case.norms.clamp(max=1e150)
    budget = torch.tensor(case.level, dtype=torch.float64)
    _, passes = cpu.root(slope, torch.tensor(strength), case.costs, budget)
    assert passes.item() <= FREE + 2 * HALVINGS


@needs_compiled
def test_many_random_lines_take_a_handful_of_passes() -> None:
    torch.manual_seed(0)
    slope = torch.randn(200_000)
    one, level = torch.ones(()), torch.tensor(2e4, dtype=torch.float64)
    t, cold = cpu.root(slope.abs(), 0.3 * one, one, level)
    _, warm = cpu.root(slope.abs(), 0.3 * one, one, level, t * 1.0001)
    assert warm <= cold <= 6


@needs_compiled
@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
def test_rows_are_problems_of_their_own(spoiled: float) -> None:
    torch.manual_seed(0)
    norms = torch.rand(3, 4, 2500)
    level = torch.rand(3, 4) * 2000 + 1
    weights, costs = torch.rand(4, 1) + 0.5, torch.rand(3, 1, 2500) + 0.5
    norms[1, 2, 7] = spoiled
    found = prox(norms, level, step=0.2, weights=weights, costs=costs)
    assert found[1, 2].isnan().all() and found.isnan().sum() == 2500
    alone = prox(norms[2, 3], level[2, 3], step=0.2, weights=weights[3], costs=costs[2, 0])
    torch.testing.assert_close(found[2, 3], alone, rtol=1e-6, atol=0)


def test_only_what_the_loops_can_read_is_taken() -> None:
    compiled = cpu.implementation() == "compiled"
    assert cpu.takes(torch.ones(3)) == compiled
    refused = [
        torch.ones(3, dtype=torch.float16),
        torch.ones(3, 2).T,
        torch.ones(0),
        torch.ones(3, device="meta"),
    ]
    assert not any(map(cpu.takes, refused))


def test_a_library_that_is_absent_or_not_of_this_machine_is_not_loaded(tmp_path: Path) -> None:
    assert cpu._load(tmp_path) is None
    (tmp_path / f"_fused{cpu.EXTENSION_SUFFIXES[0]}").write_bytes(b"of another machine")
    assert cpu._load(tmp_path) is None


@needs_compiled
def test_a_library_of_another_version_is_not_loaded(tmp_path: Path, monkeypatch) -> None:
    shutil.copy(str(cpu._library._name), tmp_path)
    assert cpu._load(tmp_path) is not None
    monkeypatch.setattr(cpu, "ABI", cpu.ABI + 1)
    assert cpu._load(tmp_path) is None


@needs_compiled
@pytest.mark.parametrize("size", [2, 9, 31, 32, 33, 64, 100])
@pytest.mark.parametrize(
    "scale, dtype",
    [
        (1e-30, torch.float32),
        (1.0, torch.float32),
        (1e30, torch.float32),
        (1e-200, torch.float64),
        (1.0, torch.float64),
        (1e200, torch.float64),
    ],
)
def test_norms_are_those_of_exact_arithmetic(size: int, scale: float, dtype) -> None:
    values = (torch.randn(13, size, dtype=torch.float64) * scale).to(dtype)
    exact = [math.hypot(*row) for row in values.tolist()]
    torch.testing.assert_close(
        cpu.norms(values), torch.tensor(exact, dtype=torch.float64), rtol=1e-14, atol=0
    )
    values[3, 1], values[4, 0] = math.nan, math.inf
    found = cpu.norms(values)
    assert found[3].isnan() and found[4].isinf() and found.isfinite().sum() == 11


@needs_compiled
def test_calls_of_several_threads_at_once_give_what_each_gives_alone() -> None:
    problems = [torch.rand(50_000) + seed for seed in range(8)]
    one = torch.ones((), dtype=torch.float64)
    alone = [root(p, one, one, 1e3 * one) for p in problems]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: root(p, one, one, 1e3 * one), problems))
    assert alone == together
