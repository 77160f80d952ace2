"""The kernels of the scalar root and of rows: the plain code's results, and no waiting."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from devices import DEVICE, INTERPRETED, kernels, needs_gpu
from envelope.problems import Case, adversaries, cases
from secateur.envelope import firm, firm_, multipliers, prox, prox_
from secateur.envelope.root import multipliers_at_root
from secateur.kernels import cpu, dispatch, gpu

# Numbers that leave the range are left to the comparisons that follow, as in C.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
MOST_PASSES = 10 + 2 * 64  # triton_root.py


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    with kernels():
        yield


@pytest.fixture
def small(monkeypatch) -> None:
    """Sizes at which rows of a few hundred lines are long ones."""
    for name, size in {"FEW": 32, "ALONE": 64, "CHUNKS": 2, "BLOCK": 256}.items():
        monkeypatch.setattr(gpu, name, size)


def _plainly(call):
    """The result of a call by plain operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "DEVICES", ())
        patch.setattr(cpu, "_library", None)
        return call()


def _sixty_four(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=DEVICE)


@settings(max_examples=10, deadline=None)
@given(
    case=cases(max_size=50),
    strength=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    numbers=st.booleans(),
)
def test_operators_equal_the_plain_ones(case: Case, strength: float, dtype, numbers: bool) -> None:
    norms = case.norms.to(DEVICE, dtype)
    given = {"weights": case.weights.to(DEVICE), "costs": case.costs.to(DEVICE)}
    scales = {"weights": 0.3, "costs": 2.0} if numbers else given
    hardness = strength / (1 + strength)
    assert dispatch.loops(norms) is gpu
    calls = [
        lambda: prox(norms, case.level, step=strength, **scales),
        lambda: multipliers(norms, case.level, step=strength, **scales),
        lambda: firm(norms, case.level, hardness=hardness, **scales),
    ]
    rounding = {torch.float64: 1e-10, torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
    largest = 1.0 if numbers else case.weights.max().item()
    for call in calls:
        atol = rounding * (1 + strength * largest)
        torch.testing.assert_close(call(), _plainly(call), rtol=rounding, atol=atol)


@pytest.mark.parametrize("name", adversaries())
@pytest.mark.parametrize("start", [math.nan, 1e300])
def test_passes_stay_bounded_on_adversarial_breakpoints(name: str, start: float) -> None:
    *lines, level = adversaries()[name]
    slope, offset, costs = (torch.from_numpy(line).to(DEVICE) for line in lines)
    budget = _sixty_four(level)[0]
    t, passes = gpu.root(slope, offset, costs, budget, torch.full_like(budget, start))
    assert 0 < passes.item() <= MOST_PASSES
    kept = multipliers_at_root(t, slope, offset)
    rounding = 1e-14 * (costs * (1 + offset)).sum().item()
    if name == "denormal":  # the steepest line there is reaches 9e-16
        assert t.isfinite() and kept.max() < 1e-15
    else:
        assert (kept * costs).sum().item() == pytest.approx(level, rel=1e-12, abs=rounding)


@pytest.mark.parametrize("lines, start", [(33, 1e-200), (65, math.nan), (400, math.nan)])
def test_long_rows_are_solved_as_short_ones_are(small, lines: int, start: float) -> None:
    torch.manual_seed(0)
    slope = torch.randn(2, lines, device=DEVICE)
    slope[1, ::2] = 0.5  # ties
    offset = torch.rand(2, 1, dtype=torch.float64, device=DEVICE)
    costs = torch.rand(lines, dtype=torch.float64, device=DEVICE) + 0.5
    level = costs.sum() * _sixty_four(0.1, 0.6)
    t, passes = gpu.root(slope, offset, costs, level, torch.full_like(level, start))
    spent = (multipliers_at_root(t, slope.abs().double(), offset) * costs).sum(-1)
    torch.testing.assert_close(spent, level, rtol=1e-13, atol=0)
    assert passes.max() <= MOST_PASSES


@pytest.mark.parametrize("name", ["all magnitudes", "stairs", "two clusters", "cycle"])
def test_long_rows_end_on_adversarial_breakpoints_too(monkeypatch, name: str) -> None:
    for constant, size in {"FEW": 64, "ALONE": 128, "CHUNKS": 1, "BLOCK": 2048}.items():
        monkeypatch.setattr(gpu, constant, size)
    *lines, level = adversaries()[name]
    slope, offset, costs = (torch.from_numpy(line).to(DEVICE) for line in lines)
    t, passes = gpu.root(slope, offset, costs, _sixty_four(level)[0])
    spent = (multipliers_at_root(t, slope, offset) * costs).sum().item()
    rounding = 1e-14 * (costs * (1 + offset)).sum().item()
    assert spent == pytest.approx(level, rel=1e-12, abs=rounding)
    assert passes <= MOST_PASSES


def test_rows_of_unequal_length_are_problems_of_their_own(small) -> None:
    torch.manual_seed(0)
    sizes = [5, 1, 100, 40, 7]
    bounds = torch.tensor([0, *sizes], device=DEVICE).cumsum(0)
    slope = torch.rand(sum(sizes), device=DEVICE)
    offset, costs = slope.double().flip(0), slope.double() + 0.5
    level = _sixty_four(2.0, 0.3, 20.0, 1e9, 1.0)
    slope[-3] = math.nan
    together, _ = gpu.root(slope, offset, costs, level, bounds=bounds)
    for row, (a, b) in enumerate(pairwise(bounds.tolist())):
        part = slice(a, b)
        alone, _ = gpu.root(slope[part], offset[part], costs[part], level[row])
        torch.testing.assert_close(together[row], alone, rtol=1e-14, atol=0, equal_nan=True)
    assert together[3] == math.inf and together[4].isnan() and together[:3].isfinite().all()


def test_the_last_root_saves_passes(small) -> None:
    torch.manual_seed(0)
    slope, one = torch.rand(400, device=DEVICE), _sixty_four(1.0)[0]
    t, cold = gpu.root(slope, 0.3 * one, one, 40 * one)
    again, warm = gpu.root(slope, 0.3 * one, one, 40 * one, t * 1.0001)
    torch.testing.assert_close(again, t, rtol=1e-14, atol=0)
    assert warm <= min(cold, 4)


@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
def test_a_broken_number_stays_in_its_row(small, spoiled: float) -> None:
    torch.manual_seed(0)
    norms = torch.rand(3, 70, device=DEVICE)
    whole = prox(norms, 20, step=0.2)
    norms[1, 7] = spoiled
    found = prox(norms, 20, step=0.2)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[::2], whole[::2], rtol=0, atol=0)


@pytest.mark.parametrize("spoiled", [math.nan, -math.inf])
def test_a_broken_weight_spoils_its_row_and_no_other(small, spoiled: float) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 70, 1, device=DEVICE)
    whole = prox_(values.clone(), 20, step=0.2)
    values[1, 7] = spoiled
    found = prox_(values, 20, step=0.2)
    assert found[1].isnan().all() and torch.equal(found[0], whole[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 9, 70])
def test_rows_in_place_equal_factors_times_values(size: int, dtype, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "BLOCK", 64)  # so that a row of 70 numbers is looked at in two parts
    torch.manual_seed(0)
    values = torch.randn(20, size, device=DEVICE).to(dtype)
    norms = values.double().norm(dim=1)
    close = 1e-12 if dtype == torch.float64 else 1e-6
    halves = 2**-6 if INTERPRETED else 2**-8  # the interpreter cuts off what bfloat16 can't hold
    tolerance = {"rtol": halves if dtype == torch.bfloat16 else close, "atol": close}
    for in_place, factors in [
        (lambda x: prox_(x, 5, step=0.3, weights=2.0), prox(norms, 5, step=0.3, weights=2.0)),
        (lambda x: firm_(x, 5, hardness=0.6), firm(norms, 5, hardness=0.6)),
    ]:
        given = values.clone()
        version = given._version
        found = in_place(given)
        assert found is given and given._version > version
        by = factors.to(dtype).unsqueeze(1)  # as torch's mul_ would take it
        expected = (values.double() * by).to(dtype)
        torch.testing.assert_close(found, expected, **tolerance)


def test_rows_that_are_kept_whole_stay_bit_for_bit_and_others_are_zero() -> None:
    values = torch.randn(3, 40, 5, device=DEVICE)
    kept = values.norm(dim=-1) >= values.norm(dim=-1).topk(10, dim=-1).values[:, -1:]
    found = firm_(values.clone(), 10, hardness=1.0)
    assert torch.equal(found, values * kept.unsqueeze(-1))


@pytest.mark.parametrize("scale", [1e-30, 1e-38, 1e30])
def test_norms_neither_vanish_nor_overflow(scale: float) -> None:
    values = torch.randn(13, 33, dtype=torch.float64, device=DEVICE).mul(scale).float()
    expected = _sixty_four(*(math.hypot(*row) for row in values.tolist()))
    torch.testing.assert_close(gpu.norms(values), expected, rtol=1e-14, atol=0)


def test_only_what_the_kernels_can_read_is_taken() -> None:
    ones = torch.ones(3, 2, device=DEVICE)
    assert gpu.takes(ones) and gpu.takes(ones.bfloat16())
    assert not any(map(gpu.takes, [ones.T, ones[:0], ones.long(), ones.to("meta")]))
    assert not torch.func.vmap(lambda x: torch.tensor(gpu.takes(x)))(ones).any()


@pytest.mark.skipif(not INTERPRETED, reason="Triton works on a GPU")
def test_where_triton_does_not_work_plain_operations_take_its_place() -> None:
    """It is installed, and out of its interpreter it finds no GPU here."""
    code = (
        "import torch\n"
        "from secateur.envelope import prox_\nfrom secateur.kernels import cpu, gpu\n"
        "gpu.DEVICES, cpu._library = ('cpu',), None\n"
        "print(prox_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 1, step=1.0).tolist())"
    )
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert run.stdout.strip() == "[[1.5, 2.0], [0.0, 0.0]]", run.stderr
    assert run.stderr.count("UserWarning: Triton does not work on cpu") == 1


@needs_gpu
@pytest.mark.parametrize("lines", [100, 20_000, 300_000])
def test_nothing_waits_for_the_device_and_a_graph_can_hold_it(lines: int) -> None:
    torch.manual_seed(0)
    given = torch.randn(lines, 4, device="cuda")
    values = given.clone()
    expected = given.cpu()
    prox_(expected, lines / 10, step=0.1)

    def step() -> None:
        values.copy_(given)
        prox_(values, lines / 10, step=0.1)

    step()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    values.zero_()
    graph.replay()
    torch.testing.assert_close(values.cpu(), expected, rtol=1e-5, atol=1e-7)


@needs_gpu
@pytest.mark.parametrize("lines", [1_000, 30_000, 1_000_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_factors_equal_those_of_the_cpu(lines: int, dtype) -> None:
    norms = torch.rand(lines, generator=torch.Generator().manual_seed(0)).to(dtype)
    close = {"rtol": max(1e-9, 2 * torch.finfo(dtype).eps), "atol": 1e-9}
    for call in (
        lambda x: prox(x, lines / 10, step=0.3),
        lambda x: firm(x, lines / 10, hardness=0.7),
    ):
        torch.testing.assert_close(call(norms.cuda()).cpu(), call(norms), **close)
