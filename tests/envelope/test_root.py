"""The scalar root: compiled and plain, against brute force and against each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import secateur.envelope.root as solve
import secateur.kernels.cpu as cpu
from envelope.problems import Case, adversaries, cases, make_case
from secateur.envelope import implementation

METHODS = ["plain"]
if implementation() == "compiled":
    METHODS.append("compiled")


def root(
    slope: torch.Tensor, offset, costs, level: torch.Tensor, *, method: str, start=None
) -> torch.Tensor:
    """Solve by the compiled loops or without them."""
    with pytest.MonkeyPatch.context() as patch:
        if method == "plain":
            patch.setattr(cpu, "_library", None)
        return solve.root(slope, offset, costs, level, start=start)


def _spent(t: torch.Tensor, slope, offset, costs) -> torch.Tensor:
    return (solve.multipliers_at_root(t, slope, offset) * costs).sum(-1)


def _lines(case: Case, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    return case.norms * (case.weights / case.costs).sqrt(), strength * case.weights


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=150, deadline=None)
@given(case=cases(), strength=st.sampled_from([0.0, 1e-3, 1.0]))
def test_root_spends_the_level_or_keeps_everything(method, case: Case, strength: float) -> None:
    slope, offset = _lines(case, strength)
    level = torch.tensor(case.level, dtype=torch.float64)
    t = root(slope, offset, case.costs, level, method=method)
    available = case.costs[slope > 0].sum()
    spent = _spent(t, slope, offset, case.costs)
    rounding = 1e-14 * (case.costs * (1 + offset)).sum().item()
    torch.testing.assert_close(spent, torch.minimum(available, level), rtol=1e-13, atol=rounding)


@settings(max_examples=150, deadline=None)
@given(case=cases(), strength=st.sampled_from([0.0, 1e-3, 1.0]))
@example(make_case(27, 27, 6, False, "zeros", "on a breakpoint"), 0.0)  # the level is never spent
@example(make_case(63255106, 163, 6, False, "plain", "everything"), 0.0)  # all but rounding fits
@example(make_case(179, 179, 6, False, "ties", "on a breakpoint"), 0.0)  # cheap groups beside dear
def test_methods_agree(case: Case, strength: float) -> None:
    """As far as the sums' rounding goes, which the groups in between share by their costs."""
    slope, offset = _lines(case, strength)
    level = torch.tensor(case.level, dtype=torch.float64)
    kept = [
        solve.multipliers_at_root(
            root(slope, offset, case.costs, level, method=method), slope, offset
        )
        for method in METHODS
    ]
    shared = [case.costs[(u > 0) & (u < 1)].sum().item() for u in kept]  # 0 where all fit
    between = min((cost for cost in shared if cost), default=0)
    rounding = 1e-14 * (case.costs * (1 + offset)).sum().item()
    atol = 1e-12 * (1 + offset.max().item()) + (rounding / between if between else 0.0)
    for other in kept[1:]:
        torch.testing.assert_close(kept[0], other, rtol=0, atol=atol)


@pytest.mark.parametrize("method", METHODS)
def test_root_equals_the_best_of_all_linear_pieces(method) -> None:
    """Brute force: solve every piece between two breakpoints, keep the one that holds its root."""
    random = np.random.default_rng(0)
    for _ in range(30):
        m = int(random.integers(1, 6))
        slope, offset, costs = random.random((3, m)) + 0.1
        level = random.uniform(0.05, 0.95) * costs.sum()
        points = np.sort(np.concatenate([[0], offset / slope, (1 + offset) / slope]))
        roots = []
        for low, high in itertools.pairwise(points):
            line = (low + high) / 2 * slope - offset
            active, full = (line > 0) & (line < 1), line >= 1
            if active.any():
                missing = level - costs[full].sum() + (costs * offset)[active].sum()
                t = missing / (costs * slope)[active].sum()
                if low <= t <= high:
                    roots.append(t)
        a, b, c = (torch.as_tensor(x) for x in (slope, offset, costs))
        found = root(a, b, c, torch.tensor(level, dtype=torch.float64), method=method)
        assert min(abs(found.item() - t) for t in roots) <= 1e-12 * found.item()


@pytest.mark.parametrize("method", METHODS)
def test_breakpoint_met_exactly(method) -> None:
    """Level 2 is spent exactly where the second group saturates and the third has not begun."""
    slope = torch.tensor([[8.0, 4.0, 0.5]], dtype=torch.float64)
    offset = torch.ones(1, 3, dtype=torch.float64)  # full at 1/4, 1/2 and 4; empty up to 2
    level = torch.tensor([2.0], dtype=torch.float64)
    t = root(slope, offset, torch.ones_like(slope), level, method=method)
    assert solve.multipliers_at_root(t, slope, offset).tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.parametrize("method", METHODS)
def test_nan_in_any_argument_gives_nan_in_its_row_only(method) -> None:
    for spoiled in range(3):
        lines = torch.rand(3, 2, 5, dtype=torch.float64) + 0.1
        lines[spoiled, 1, 2] = math.nan
        level = torch.ones(2, dtype=torch.float64)
        t = root(lines[0], lines[1], lines[2], level, method=method)
        assert t.isnan().tolist() == [False, True]
    level = torch.tensor([1.0, math.nan], dtype=torch.float64)
    lines = torch.rand(2, 5, dtype=torch.float64) + 1
    t = root(lines, lines, lines, level, method=method)
    assert t.isnan().tolist() == [False, True]


def test_warm_start_saves_passes_and_changes_nothing(monkeypatch) -> None:
    torch.manual_seed(0)
    slope = torch.randn(5000, dtype=torch.float64).abs()
    offset, one = torch.tensor(0.3, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    level = torch.tensor(400.0, dtype=torch.float64)
    passes = []
    between = solve._between
    monkeypatch.setattr(solve, "_between", lambda *a: passes.append(1) or between(*a))
    cold = root(slope, offset, one, level, method="plain")
    cold_passes = len(passes)
    warm = root(slope, offset, one, level, method="plain", start=cold * 1.0001)
    assert len(passes) - cold_passes < cold_passes
    torch.testing.assert_close(warm, cold, rtol=1e-14, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [0.0, -1.0, 1e-30, 1e30, math.nan, math.inf])
def test_a_bad_start_changes_nothing(start: float, method) -> None:
    slope = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    level = torch.tensor(2.0, dtype=torch.float64)
    t = root(
        slope,
        torch.zeros(3),
        torch.ones(3),
        level,
        method=method,
        start=torch.tensor(start, dtype=torch.float64),
    )
    assert t.item() == pytest.approx(1 / 3, rel=1e-14)


@pytest.mark.parametrize("free", [0, solve.FREE_PASSES])
@pytest.mark.parametrize("name", adversaries())
def test_what_newton_does_not_find_is_found_by_halving(name: str, free: int, monkeypatch) -> None:
    monkeypatch.setattr(solve, "FREE_PASSES", free)
    *lines, level = adversaries()[name]
    slope, offset, costs = map(torch.from_numpy, lines)
    t = root(slope, offset, costs, torch.tensor(level, dtype=torch.float64), method="plain")
    kept = solve.multipliers_at_root(t, slope, offset)
    rounding = 1e-14 * (costs * (1 + offset)).sum().item()
    if name == "denormal":  # the steepest line there is reaches 9e-16
        assert t.isfinite() and kept.max() < 1e-15
    else:
        assert (kept * costs).sum().item() == pytest.approx(level, rel=1e-12, abs=rounding)


def test_slopes_of_sixty_orders_of_magnitude() -> None:
    slope = torch.logspace(-30, 30, 61, dtype=torch.float64)
    level = torch.tensor(30.5, dtype=torch.float64)
    for method in METHODS:
        t = root(slope, torch.zeros(()), torch.ones(()), level, method=method)
        assert _spent(t, slope, 0, 1).item() == pytest.approx(30.5, rel=1e-14)


def test_many_rows_settle_each_at_its_own_pass() -> None:
    torch.manual_seed(0)
    slope = torch.randn(2, 10_000, dtype=torch.float64).abs()
    offset, costs = torch.rand_like(slope), torch.rand_like(slope) + 0.1
    level = torch.tensor([100.0, 3000.0], dtype=torch.float64)
    found = [root(slope, offset, costs, level, method=method) for method in METHODS]
    found.append(
        torch.stack(
            [root(*row, method="plain") for row in zip(slope, offset, costs, level, strict=True)]
        )
    )
    for t in found[1:]:
        torch.testing.assert_close(t, found[0], rtol=1e-13, atol=0)


def test_shapes_are_known_without_values() -> None:
    """A meta tensor has no values, so anything that waits for one raises here."""
    slope = torch.rand(3, 2000, device="meta")
    t = solve.root(slope, slope, slope, slope[:, 0])
    assert t.shape == (3,) and t.device.type == "meta"


def test_no_groups_fit_in_any_level() -> None:
    none = torch.zeros(2, 0, dtype=torch.float64)
    assert solve.root(none, none, none, torch.ones(2)).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("code", ["as installed", "plain"])
@pytest.mark.parametrize("vector", [True, False])
def test_segments_are_problems_of_their_own(code: str, vector: bool, monkeypatch) -> None:
    if code == "plain":
        monkeypatch.setattr(cpu, "_library", None)
    torch.manual_seed(0)
    sizes = [1, 7, 3000, 40]
    bounds = torch.tensor([0, 1, 8, 3008, 3048])
    slope, level = torch.rand(3048).double(), torch.tensor([0.5, 7.0, 1.5, 12.0]).double()
    offset = torch.rand(3048).double() if vector else torch.tensor(0.4).double()
    found, roots = solve.multipliers_by_segment(slope, offset, level, bounds)
    again, _ = solve.multipliers_by_segment(slope, offset, level, bounds, start=roots)
    torch.testing.assert_close(found, again, rtol=1e-12, atol=1e-12)
    for row, size in enumerate(sizes):
        part = slice(int(bounds[row]), int(bounds[row]) + size)
        shift, one = (offset[part] if vector else offset), torch.ones(()).double()
        alone = solve.root(slope[part], shift, one, level[row])
        expected = solve.multipliers_at_root(alone, slope[part], shift)
        torch.testing.assert_close(found[part], expected, rtol=1e-12, atol=1e-12)
    assert found[1:8].tolist() == [1.0] * 7  # they fit in their level
