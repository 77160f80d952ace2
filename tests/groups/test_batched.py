"""All members at once: what each member does alone, bit for bit where it scales, in any layout."""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import secateur.groups.batched as together_module
from secateur.groups import Groups, Layer, Member
from secateur.groups.batched import MemberBatch, all_finite
from secateur.kernels import cpu

needs_compiled = pytest.mark.skipif(
    cpu.implementation() == "plain", reason="no C compiler when secateur was installed"
)
GROUPS = 7
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@st.composite
def members(draw: st.DrawFn) -> Member:
    """A parameter of any shape, strides and dtype, with ids along any of its dimensions."""
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    if draw(st.booleans()):
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from([0, 64, 100]))
    order = draw(st.permutations(range(len(shape))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    back = [order.index(dim) for dim in range(len(shape))]
    values = torch.randn([shape[dim] for dim in order], generator=generator).permute(back)
    parameter = torch.empty_like(values, dtype=draw(st.sampled_from(FLOATS))).copy_(values)
    if draw(st.booleans()) and shape[-1] > 1:
        parameter = parameter[..., ::2]  # with gaps
    varies = [draw(st.booleans()) for _ in shape]
    sizes = [size if own else 1 for size, own in zip(parameter.shape, varies, strict=True)]
    least = draw(st.sampled_from([-1, 0]))
    ids = torch.randint(least, GROUPS, sizes, generator=generator)
    tiles = draw(st.booleans()) and parameter.is_contiguous() and parameter.shape[0] % 2 == 0
    if tiles and parameter.numel():
        half = parameter.shape[0] // 2
        ids = torch.randint(least, GROUPS, (half, 1, *sizes[1:]), generator=generator)
        return Member("w", parameter, ids, (half, 2, *parameter.shape[1:]))
    return Member("w", parameter, ids)


def one_by_one(members: list[Member], factors: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Squares, those of products with `like`, and the scaled parameters, each member on its own."""
    squares, products = torch.zeros(2, GROUPS, dtype=torch.float64)
    padded = torch.cat([factors, torch.ones(1, dtype=torch.float64)])
    for member in members:
        member.add_squares_(squares)
        member.add_products_(products, like(member.parameter))
        member.scale_(padded)
    return squares, products, [member.parameter for member in members]


def like(parameter: Tensor) -> Tensor:
    """Other numbers in the same layout, of both signs."""
    return torch.empty_like(parameter).copy_(parameter.flip(0)).mul_(-0.7)


@settings(max_examples=300, deadline=None)
@given(given_members=st.lists(members(), min_size=1, max_size=3), threads=st.sampled_from([1, 3]))
def test_all_at_once_is_each_on_its_own(given_members: list[Member], threads: int) -> None:
    factors = torch.tensor([0.0, 1.0, 0.1, 1.0, 1 / 3, 1.0, 0.7], dtype=torch.float64)
    expected, products, scaled = one_by_one([copy.deepcopy(m) for m in given_members], factors)
    groups = Groups(tuple(given_members), (Layer("w", "own", 0, GROUPS),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together_module, "SHARE", 1)
        patch.setattr(torch, "get_num_threads", lambda: threads)
        exact = all(m.parameter.dtype == torch.float64 for m in given_members)
        torch.testing.assert_close(
            groups.norms().square(), expected, rtol=1e-13 if exact else 5e-6, atol=1e-300
        )
        found = groups.products([like(member.parameter) for member in given_members])
        torch.testing.assert_close(found, products, rtol=1e-13, atol=1e-300)
        groups.scale_(factors)
    for member, theirs in zip(given_members, scaled, strict=True):
        assert torch.equal(member.parameter, theirs)


@needs_compiled
def test_what_people_train_is_read_by_the_loops() -> None:
    """Filters, input channels, tiles, heads, channels_last: none is left to the plain code."""
    weight = torch.randn(8, 6, 3, 3)
    last = weight.contiguous(memory_format=torch.channels_last)
    ids = torch.arange(8).reshape(8, 1, 1, 1), torch.arange(6).reshape(1, 6, 1, 1)
    cases = [Member("w", values, i) for values in (weight, last) for i in ids]
    cases.append(Member("w", torch.randn(8, 8), torch.arange(4).reshape(2, 1, 2, 1), (2, 4, 2, 4)))
    cases.append(Member("b", torch.randn(5, dtype=torch.bfloat16), torch.arange(5)))
    cases.append(Member("w", torch.randn(3, 4), torch.arange(12).reshape(3, 4)))
    total = torch.zeros(12, dtype=torch.float64)
    assert MemberBatch(cases).add_squares_(total) == []
    assert MemberBatch(cases).add_products_(total, [like(case.parameter) for case in cases]) == []
    assert MemberBatch(cases).scale_(torch.ones(12)) == []


@needs_compiled
def test_tensors_that_move_or_change_their_layout_are_read_anew() -> None:
    parameter = torch.randn(6, 4)
    member = Member("w", parameter, torch.arange(6).reshape(6, 1))
    together = MemberBatch([member])

    def norms() -> Tensor:
        total = torch.zeros(6, dtype=torch.float64)
        assert together.add_squares_(total) == []
        return total

    exact = torch.testing.assert_close
    exact(norms(), parameter.double().square().sum(1), rtol=1e-13, atol=0)
    parameter.data = torch.randn(4, 6).T
    exact(norms(), parameter.double().square().sum(1), rtol=1e-13, atol=0)
    parameter.data = parameter.double()
    exact(norms(), parameter.square().sum(1), rtol=1e-13, atol=0)
    parameter.data = parameter[:5]  # in the same place
    assert together.add_squares_(torch.zeros(6, dtype=torch.float64)) == [0]


def test_products_of_unlike_tensors_are_left_to_each_member() -> None:
    """Another type, another order in memory; None is left out, and nothing is read twice."""
    parameters = torch.randn(4, 6, 4).unbind()
    members = [Member("w", parameter, torch.arange(6).reshape(6, 1)) for parameter in parameters]
    others = [torch.randn(6, 4), torch.randn(6, 4).double(), torch.randn(4, 6).T, None]
    total = torch.zeros(6, dtype=torch.float64)
    left = MemberBatch(members).add_products_(total, others)
    assert left == ([1, 2] if cpu.implementation() == "compiled" else [0, 1, 2])
    groups = Groups(tuple(members), (Layer("w", "own", 0, 6),))
    pairs = zip(parameters, others, strict=True)
    products = [parameter.double() * other for parameter, other in pairs if other is not None]
    expected = torch.stack(products).square().sum((0, 2))
    torch.testing.assert_close(groups.products(others), expected, rtol=1e-12, atol=0)


def test_a_copy_knows_no_addresses_of_the_original() -> None:
    parameter = torch.randn(6, 4)
    together = MemberBatch([Member("w", parameter, torch.arange(6).reshape(6, 1))])
    together.add_squares_(torch.zeros(6, dtype=torch.float64))
    for other in (copy.deepcopy(together), pickle.loads(pickle.dumps(together))):
        assert vars(other).keys() == vars(together).keys()
        assert not other._seen
        assert not other._layouts
        assert torch.equal(other.members[0].parameter, parameter)


def test_only_the_tensors_that_are_given_are_scaled() -> None:
    pair = [Member("w", torch.ones(3), torch.arange(3)) for _ in range(2)]
    other = torch.ones(3)
    together = MemberBatch(pair)
    for position in together.scale_(torch.tensor([0.0, 1.0, 2.0]), [None, other]):
        pair[position].scale_(torch.tensor([0.0, 1.0, 2.0]), other)
    assert other.tolist() == [0, 1, 2]
    assert all(member.parameter.tolist() == [1, 1, 1] for member in pair)


def test_autograd_sees_that_a_parameter_was_scaled() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    groups = Groups((Member("w", weight, torch.arange(3)),), (Layer("w", "own", 0, 3),))
    loss = weight.square().sum()
    groups.scale_(torch.zeros(3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found_anywhere(dtype: torch.dtype, bad: float) -> None:
    for size in (1, 2, 3, 17, 1000):
        values = torch.full((size,), torch.finfo(dtype).max, dtype=dtype)
        assert all_finite([torch.zeros(0), values, -values])
        for position in {0, size // 2, size - 1}:
            spoiled = values.clone()
            spoiled[position] = bad
            assert all_finite([values, spoiled]) is False


@needs_compiled
def test_what_the_loops_cannot_read_is_left_to_others() -> None:
    assert all_finite([torch.ones(3), torch.ones(4, 4)[:, ::2]]) is None
    assert all_finite([torch.ones(3, dtype=torch.complex64)]) is None
    assert all_finite([torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)])


def _norms_of_a_large_one() -> float:
    member = Member("w", torch.ones(4, 1 << 19), torch.arange(4).reshape(4, 1))
    pair = MemberBatch([member, member])
    total = torch.zeros(4, dtype=torch.float64)
    pair.add_squares_(total)
    return float(total.sum())


@needs_compiled
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_process_starts_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    here = _norms_of_a_large_one()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_norms_of_a_large_one).get(timeout=20) == here == 2.0**22
