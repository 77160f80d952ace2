"""Norms, liveness and scaling against a loop over single elements."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secateur.groups import Groups, Layer, Member


def groups_of(parameter: Tensor, ids: Tensor, shape: tuple[int, ...] | None = None) -> Groups:
    member = Member("weight", parameter, ids, shape)
    count = int(ids.max()) + 1
    return Groups((member,), (Layer("all", "custom", 0, count),))


def each_element(parameter: Tensor, ids: Tensor, shape: tuple[int, ...] | None = None):
    """Every element as (id, value), the slow way; the value in Python's float64."""
    shape = shape or tuple(parameter.shape)
    full = ids.expand(shape).reshape(-1).tolist()
    return zip(full, parameter.reshape(-1).tolist(), strict=True)


def slow_norms(parameter: Tensor, ids: Tensor, shape: tuple[int, ...] | None = None) -> list[float]:
    values: dict[int, list[float]] = {i: [] for i in range(int(ids.max()) + 1)}
    for number, value in each_element(parameter, ids, shape):
        if number >= 0:
            values[number].append(value)
    return [math.hypot(*found) for found in values.values()]


def random_ids(*shape: int, least: int = 0, count: int = 5) -> Tensor:
    ids = torch.randint(least, count, shape, generator=torch.Generator().manual_seed(3))
    ids.view(-1)[:count] = torch.arange(count)  # every group has an element
    return ids


CASES = {
    "filters": ((6, 3, 2, 2), torch.arange(6).reshape(6, 1, 1, 1), None),
    "inputs": ((6, 3, 2, 2), torch.arange(3).reshape(1, 3, 1, 1), None),
    "filter shapes": ((6, 3, 2, 2), torch.arange(12).reshape(1, 3, 2, 2), None),
    "split dimensions": ((6, 3, 2, 2), torch.arange(12).reshape(6, 1, 2, 1), None),
    "one layer": ((6, 3, 2, 2), torch.zeros(1, 1, 1, 1, dtype=torch.int64), None),
    "single weights": ((4, 5), torch.arange(20).reshape(4, 5), None),
    "repeated ids": ((4, 5), random_ids(4, 5), None),
    "with gaps": ((8, 5), random_ids(8, 5, least=-1), None),
    "gaps in a dimension": ((7, 5), torch.tensor([0, -1, 1, 1, -1, 2, 0]).reshape(7, 1), None),
    "blocks": ((8, 6), torch.arange(12).reshape(4, 1, 3, 1), (4, 2, 3, 2)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_norms_are_those_of_a_loop_over_elements(name, dtype):
    shape, ids, view = CASES[name]
    parameter = torch.randn(shape, dtype=torch.float64).to(dtype)
    expected = torch.tensor(slow_norms(parameter, ids, view), dtype=torch.float64)
    exact = 1e-14 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(
        groups_of(parameter, ids, view).norms(), expected, rtol=exact, atol=0
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels_last"])
def test_scaling_multiplies_each_element_once_in_any_layout(name, layout):
    shape, ids, view = CASES[name]
    parameter = torch.randn(shape)
    if layout == "transposed":
        parameter = parameter.transpose(0, 1).contiguous().transpose(0, 1)
    elif parameter.ndim == 4 and layout == "channels_last":
        parameter = parameter.contiguous(memory_format=torch.channels_last)
    strides, before = parameter.stride(), parameter.clone()
    groups = groups_of(parameter, ids, view)
    factors = torch.linspace(0, 1, len(groups))
    groups.scale_(factors)
    expected = [
        value * (float(factors[number]) if number >= 0 else 1.0)
        for number, value in each_element(before, ids, view)
    ]
    torch.testing.assert_close(parameter.reshape(-1), torch.tensor(expected))
    assert parameter.stride() == strides


@pytest.mark.parametrize("scale", [1e-30, 1e-38, 1e30, 1.0])
@pytest.mark.parametrize("name", ["filters", "inputs", "blocks", "single weights"])
def test_norms_neither_vanish_nor_overflow(scale, name):
    shape, ids, view = CASES[name]
    parameter = torch.randn(shape) * scale
    expected = torch.tensor(slow_norms(parameter, ids, view), dtype=torch.float64)
    torch.testing.assert_close(groups_of(parameter, ids, view).norms(), expected, rtol=1e-6, atol=0)


def test_half_precision_accumulates_in_single():
    parameter = torch.full((1, 200_000), 0.5, dtype=torch.float16)  # its square sum is 50,000
    groups = groups_of(parameter, torch.zeros(1, 1, dtype=torch.int64))
    assert groups.norms().item() == pytest.approx(math.sqrt(50_000), rel=1e-6)
    groups = groups_of(parameter.fill_(200), torch.zeros(1, 1, dtype=torch.int64))
    assert groups.norms().item() == pytest.approx(200 * math.sqrt(200_000), rel=1e-6)  # > 65,504


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_number_stays_visible(bad):
    parameter = torch.ones(4, 3)
    parameter[2, 1] = bad
    norms = groups_of(parameter, torch.arange(4).reshape(4, 1)).norms()
    assert norms.isfinite().tolist() == [True, True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_subnormal_element_keeps_its_group_alive(dtype):
    parameter = torch.zeros(3, 4, dtype=dtype)
    parameter[1, 2] = torch.finfo(dtype).smallest_normal / 4
    parameter[2, 2] = -0.0
    assert parameter[1, 2] != 0
    groups = groups_of(parameter, torch.arange(3).reshape(3, 1))
    assert groups.alive().tolist() == [False, True, False]


def test_groups_with_factor_one_keep_their_bits():
    parameter = torch.randn(64, 9)
    parameter[:, 0] = 1e-42  # subnormal
    before = parameter.clone()
    factors = torch.ones(64)
    factors[10] = 0.5
    groups_of(parameter, torch.arange(64).reshape(64, 1)).scale_(factors)
    untouched = torch.arange(64) != 10
    bits, bits_before = parameter.view(torch.int32), before.view(torch.int32)
    assert torch.equal(bits[untouched], bits_before[untouched])
    assert not torch.equal(bits[10], bits_before[10])


def test_scaling_another_tensor_leaves_the_parameter_alone():
    parameter, other = torch.ones(2, 3), torch.ones(2, 3)
    member = Member("weight", parameter, torch.tensor([[0], [1]]))
    member.scale_(torch.tensor([0.0, 2.0, 1.0]), other)
    assert other.tolist() == [[0.0] * 3, [2.0] * 3]
    assert parameter.tolist() == [[1.0] * 3, [1.0] * 3]


def test_ids_that_do_not_broadcast_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"(?s)weight do not broadcast.*\(3, 1\).*\(2, 4\)"):
        Member("weight", torch.ones(2, 4), torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="do not broadcast"):
        Member("weight", torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_an_accelerator_adds_in_a_fixed_order() -> None:
    """Processes that hold equal weights on GPUs of their own come to equal norms, bit for bit."""
    parameter = torch.randn(1 << 14, 8, device="cuda")
    member = Member("w", parameter, torch.arange(1 << 14).reshape(-1, 1) % 3)
    totals = torch.zeros(20, 3, dtype=torch.float64, device="cuda")
    for total in totals:
        member.add_squares_(total)
    assert bool((totals == totals[0]).all())
    expected = parameter.double().square().sum(1).cpu()
    torch.testing.assert_close(
        totals[0].cpu(), torch.stack([expected[j::3].sum() for j in range(3)]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_norms_of_columns_are_exact_over_many_blocks_of_rows(dtype, scale) -> None:
    """900 x 7 x 50 elements are three blocks; the groups lie along the second dimension."""
    torch.manual_seed(0)
    parameter = (torch.randn(900, 7, 50) * scale).to(dtype)
    member = Member("weight", parameter, torch.arange(7).reshape(1, 7, 1))
    total = torch.zeros(7, dtype=torch.float64)
    member.add_squares_(total)
    expected = parameter.double().square().sum((0, 2))
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ids", [(1, 7, 1), (900, 1, 1), (900, 7, 1), (1, 1, 50), (900, 7, 50)])
def test_products_are_exact_over_many_blocks(dtype, ids) -> None:
    torch.manual_seed(0)
    parameter, other = torch.randn(2, 900, 7, 50).to(dtype)
    groups = torch.arange(torch.Size(ids).numel()).reshape(ids) % 11 - 1  # -1 is in none
    total = torch.zeros(10, dtype=torch.float64)
    Member("weight", parameter, groups).add_products_(total, other)
    products = (parameter.double() * other.double()).square()
    each = [products[(groups == group).expand_as(products)].sum() for group in range(10)]
    torch.testing.assert_close(total, torch.stack(each), rtol=1e-12, atol=0)


def test_products_of_blocks_see_tensors_as_the_ids_do():
    parameter, other = torch.randn(2, 4, 6, dtype=torch.float64)
    member = Member("weight", parameter, torch.arange(4).reshape(2, 1, 2, 1), (2, 2, 2, 3))
    total = torch.ones(4, dtype=torch.float64)
    member.add_products_(total, other)
    tiles = (parameter * other).square().reshape(2, 2, 2, 3).sum((1, 3)).reshape(-1)
    torch.testing.assert_close(total, 1 + tiles, rtol=1e-12, atol=0)
