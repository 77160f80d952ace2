"""Long rows in the compiled loops: most lines decided in one look, and the plain code's results."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import secateur.kernels.cpu as cpu
from secateur.envelope import firm, firm_, prox, prox_
from secateur.envelope.root import multipliers_at_root, root

pytestmark = pytest.mark.skipif(
    cpu.implementation() == "plain", reason="no C compiler when secateur was installed"
)
LENGTH = cpu.LONG_ROW + 777  # its last block is not full


def _slopes() -> dict[str, Tensor]:
    """Float64 slopes of long rows that are easy, or hard to guess from a sample of runs."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(LENGTH, generator=generator, dtype=torch.float64)
    place = torch.arange(LENGTH)
    sampled = place % (LENGTH // (2048 // 8)) < 8  # the lines that the sample consists of
    return {
        "normal": normal,
        "sorted": normal.sort().values,
        "ties": torch.full((LENGTH,), 0.7, dtype=torch.float64),
        "three values": torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)[place % 3],
        "a sample of the largest": torch.where(sampled, 100.0, normal),
        "a sample of zeros": torch.where(sampled, 0.0, normal),
        "all magnitudes": torch.logspace(-30, 30, LENGTH, dtype=torch.float64),
        "mostly zero": torch.where(place % 1000 == 3, normal, 0.0),
        "denormal": torch.full((LENGTH,), 3e-42, dtype=torch.float64) * (1 + place % 7),
        "layers of other scales": normal * 10.0 ** (place // 5000),
    }


def _spends(t: Tensor, slope: Tensor, offset: Tensor, costs: Tensor, level: float) -> None:
    """The root's lines spend the level, to the rounding of what is summed."""
    slope, offset, costs = slope.double().abs(), offset.double(), costs.double()
    kept = multipliers_at_root(t, slope, offset)
    scale = (costs * (1 + offset)).expand_as(slope).sum().item()
    assert (kept * costs).sum().item() == pytest.approx(level, rel=1e-12, abs=1e-14 * scale)


@pytest.mark.parametrize("name", _slopes())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lines", ["numbers", "vectors", "single vectors"])
def test_the_root_spends_the_level(name: str, dtype: torch.dtype, lines: str) -> None:
    slope = _slopes()[name].to(dtype)
    offset, costs = torch.tensor(0.3).double(), torch.tensor(2.0).double()
    if lines != "numbers":
        spread = torch.arange(LENGTH, dtype=torch.float64) % 11
        offset, costs = 0.1 * spread, 1 + spread
    if lines == "single vectors":
        offset, costs = offset.float(), costs.float()
    whole = float((costs * (slope != 0)).double().sum())
    for level in (0.5, 1e-3 * whole, 0.1 * whole, 0.9 * whole, whole - 0.5):
        budget = torch.tensor(level, dtype=torch.float64)
        for start in (None, torch.tensor(1e-3), torch.tensor(1e30)):
            t, passes = cpu.root(slope, offset, costs, budget, start, finite=True)
            assert 1 <= passes.item() <= 138
            _spends(t, slope, offset, costs, level)
        again, passes = cpu.root(slope, offset, costs, budget, t * (1 + 1e-9), finite=True)
        assert passes == 1 or name in ("ties", "three values")  # lines that stay open
        _spends(again, slope, offset, costs, level)
    all_of_it = torch.tensor(whole, dtype=torch.float64)
    assert cpu.root(slope, offset, costs, all_of_it, finite=True)[0] == math.inf


@pytest.mark.parametrize("name", _slopes())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("vectors", [False, True])
def test_operators_equal_the_plain_ones(name: str, dtype, vectors: bool, monkeypatch) -> None:
    norms = _slopes()[name].abs().to(dtype)
    scales: dict[str, Any] = {"weights": 0.3, "costs": 2.0}
    if vectors:
        spread = 0.5 + (torch.arange(LENGTH) % 13) / 7
        scales = {"weights": spread.to(dtype), "costs": spread.flip(0)}
    level = 0.2 * LENGTH
    close = 1e-9 if dtype == torch.float64 else 1e-6

    def results() -> list[Tensor]:
        return [
            prox(norms, level, step=0.7, **scales),
            prox(norms, level, step=0.0, **scales),
            firm(norms, level, hardness=0.6, **scales),
            prox_(-norms.unsqueeze(-1), level, step=0.7, **scales),
            firm_(-norms.unsqueeze(-1), level, hardness=0.6, **scales),
        ]

    ours = results()
    monkeypatch.setattr(cpu, "_library", None)
    for mine, plain in zip(ours, results(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 5000, LENGTH - 1])
def test_one_bad_single_weight_surfaces_everywhere_in_its_row(
    dtype, bad: float, place: int
) -> None:
    values = torch.ones(2, LENGTH, 1, dtype=dtype)
    values[1, place] = bad
    for operator in (
        lambda x: prox_(x, LENGTH / 3, step=0.1),
        lambda x: firm_(x, LENGTH / 3, hardness=0.1),
    ):
        found = operator(values.clone())
        assert found[0].isfinite().all()
        assert found[1].isnan().all()


def test_segments_are_rows_of_unequal_length() -> None:
    torch.manual_seed(0)
    sizes = [1, 20, 0, 500, LENGTH, 3]
    slope, offset = torch.rand(sum(sizes)), torch.rand(sum(sizes), dtype=torch.float64)
    costs = torch.ones((), dtype=torch.float64)
    bounds = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()])
    level = 0.3 * torch.tensor(sizes, dtype=torch.float64).clamp(min=1)
    found, _ = cpu.root(slope, offset, costs, level, bounds=bounds)
    for row, size in enumerate(sizes):
        part = slice(int(bounds[row]), int(bounds[row + 1]))
        alone = root(slope[part], offset[part], costs, level[row]) if size else math.inf
        assert float(found[row]) == pytest.approx(float(alone), rel=1e-12)


def test_vectors_are_not_copied() -> None:
    """The compiled prox of float32 norms, weights and costs takes less than one float64 copy."""
    n = 1 << 20
    norms, weights, costs = torch.rand(n), torch.rand(n) + 0.5, torch.rand(n) + 0.5
    with torch.profiler.profile(profile_memory=True) as profile:
        prox(norms, n / 10, step=0.3, weights=weights, costs=costs)
    taken = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert 4 * n <= taken < 4 * n + 8 * n  # the factors, and room for the lines that stay open
